"""What the report reads of an evaluation: scores with intervals, motion beside quality, and samples by a printed rule.

Input: ``evals/NAME/summary.json``, ``scores.parquet`` and the sample videos. The first model is the base.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from densedpo.errors import ProjectError
from densedpo.keys import content_id
from densedpo.observe import track, warn
from densedpo.report.media import Shelf, Shown
from densedpo.report.suites import SuiteScores, read_suites
from densedpo.report.text import capitalised
from densedpo.store.files import inside, read_json
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table

MAIN_QUALITY = "artifact"
SAMPLES = 6
_MAX_SIDE_BY_SIDE = 4
_MOST_DRAWN = 6  # scores; all are in the table that opens


@dataclass(frozen=True)
class Sample:
    """One prompt and seed, drawn by several models, and why it is shown."""

    why: str
    prompt: str
    seed: int
    videos: list[tuple[str, Shown, dict[str, float]]]  # model, video, its scores


@dataclass(frozen=True)
class Evaluation:
    """One evaluation as the page shows it."""

    name: str
    summary: dict[str, Any]
    samples: list[Sample]
    rule: str
    suites: list[SuiteScores] = field(default_factory=list)

    @property
    def models(self) -> list[str]:
        """Names of the models, the base first."""
        return [str(model["name"]) for model in self.summary["models"]]

    @property
    def base(self) -> str:
        """Name of the model that the others are compared with."""
        return self.models[0]

    def part(self, key: str) -> Any:
        """Return a part of the summary, None where the evaluation is older or did not measure it."""
        return self.summary.get(key)

    def run_of(self, model: str) -> str:
        """Return the run that a model is a variant of; older evaluations know runs only."""
        found = next(entry for entry in self.summary["models"] if entry["name"] == model)
        return str(found.get("run") or model)

    @property
    def main_models(self) -> list[str]:
        """The base, every run as it was trained, and the model to ship; all where runs are there in parts only."""
        as_trained = [
            str(entry["name"])
            for entry in self.summary["models"]
            if entry.get("step") is None and entry.get("lora_scale", 1) in (1, None)
        ]
        ship = ((self.summary.get("curves") or {}).get("ship") or {}).get("model")
        wanted = {self.base, *as_trained, ship}
        found = [model for model in self.models if model in wanted]
        return found if len(found) > 1 else self.models

    @property
    def main_differences(self) -> dict[str, Any]:
        """``differences`` of the main models."""
        return {model: found for model, found in self.differences.items() if model in self.main_models}

    @property
    def motion(self) -> str | None:
        """The score that says how much moves, None where none does."""
        found = self.summary["score_info"]
        return next((key for key, info in found.items() if info.get("is_motion")), None)

    @property
    def info(self) -> dict[str, dict[str, str]]:
        """Label, unit, direction and sentence of every score: motion first, then the main quality, then the rest."""
        found: dict[str, dict[str, str]] = self.summary["score_info"]
        given = self.summary.get("score_order") or list(found)
        first = {self.motion: -2, self.summary.get("quality") or MAIN_QUALITY: -1}
        named = sorted(found, key=lambda key: first.get(key, given.index(key)))
        return {key: {**found[key], "label": capitalised(found[key]["label"])} for key in named}

    @property
    def main_info(self) -> dict[str, dict[str, str]]:
        """``info`` of what the page draws: everything, or of many scores motion and the first with a direction."""
        if len(self.info) <= _MOST_DRAWN:
            return self.info
        kept = [key for key, info in self.info.items() if key == self.motion or info["better"] != "neither"]
        return {key: self.info[key] for key in kept[:_MOST_DRAWN]}

    @property
    def qualities(self) -> list[str]:
        """Scores other than motion, the main one first."""
        return [key for key in self.info if key != self.motion]

    @property
    def scores(self) -> dict[str, Any]:
        """Mean and interval by model and score."""
        return dict(self.summary["scores"])

    @property
    def differences(self) -> dict[str, Any]:
        """Mean and interval of model minus base, paired by prompt, by model and score."""
        return {model: found for model, found in self.summary["differences"].items() if model != self.base and found}

    @property
    def ratios(self) -> dict[str, Any]:
        """Mean and interval of model over base, by model and score, where the evaluation has them."""
        return dict(self.summary.get("ratios", {}))

    @property
    def held_out(self) -> int:
        """Number of prompts that no training ever saw."""
        return sum(bool(prompt.get("held_out")) for prompt in self.summary["prompts"])


def read_evaluations(project: Project, shelf: Shelf) -> list[Evaluation]:
    """Read every whole evaluation, in order of name, and copy the sample videos that are shown."""
    found = sorted(project.evaluations.glob("*/summary.json")) if project.evaluations.is_dir() else []
    evaluations = []
    for path in found:
        if path.parent.name.startswith("."):
            continue
        summary = read_json(path)
        missing = {"models", "prompts", "seeds", "scores", "differences", "score_info"} - set(summary)
        if missing or not summary["models"]:
            raise ProjectError(f"{path}: lacks {', '.join(sorted(missing)) or 'models'}; run `densedpo evaluate` again")
        rows = read_table(path.with_name("scores.parquet"))
        plain = Evaluation(path.parent.name, summary, [], "")
        samples, rule = _samples(plain, rows, project, shelf)
        suites = read_suites(project, path.parent.name)
        evaluations.append(Evaluation(path.parent.name, summary, samples, rule, suites))
    return evaluations


def _samples(evaluation: Evaluation, rows: list[Row], project: Project, shelf: Shelf) -> tuple[list[Sample], str]:
    by_sample: dict[tuple[str, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_sample[str(row["prompt_id"]), int(row["seed"])][str(row["model"])] = row
    whole = {key: found for key, found in by_sample.items() if evaluation.base in found and len(found) > 1}
    if not whole:
        whole = dict(by_sample)
    chosen = _first_by_hash(whole) + _extremes(evaluation, whole)
    samples = []
    for why, key, models in track(chosen, f"report: samples of {evaluation.name}"):
        videos = []
        for model in (models or evaluation.main_models)[:_MAX_SIDE_BY_SIDE]:
            made = whole[key].get(model)
            shown = _video(project, evaluation.name, made, shelf) if made else None
            if made and shown:
                scores = {name: made[name] for name in evaluation.main_info if made.get(name) is not None}
                videos.append((model, shown, scores))
        if videos:
            samples.append(Sample(why, str(whole[key][videos[0][0]]["prompt"]), key[1], videos))
    plain = min(SAMPLES, len(whole))
    rule = f"The first {plain} of {len(whole)} samples by a hash of prompt and seed, so nobody chose them"
    named = "; after them, named as such, the largest gain and the largest loss of each tuned model"
    return samples, f"{rule}{named if len(chosen) > plain else ''}."


_Choice = tuple[str, tuple[str, int], list[str]]


def _first_by_hash(whole: dict[tuple[str, int], dict[str, Row]]) -> list[_Choice]:
    ordered = sorted(whole, key=lambda key: content_id("report/samples", *key))
    return [("by hash", key, []) for key in ordered[:SAMPLES]]


def _extremes(evaluation: Evaluation, whole: dict[tuple[str, int], dict[str, Row]]) -> list[_Choice]:
    if not evaluation.qualities:
        return []
    score = evaluation.qualities[0]
    label = evaluation.info[score]["label"].lower()
    sign = -1 if evaluation.info[score]["better"] == "lower" else 1
    chosen: list[_Choice] = []
    for model in evaluation.main_models[1:]:
        gains = {
            key: sign * (float(found[model][score]) - float(found[evaluation.base][score]))
            for key, found in whole.items()
            if all(found.get(name, {}).get(score) is not None for name in (model, evaluation.base))
        }
        if len(gains) < 2:
            continue
        both = [evaluation.base, model]
        chosen.append((f"largest gain of {model} in {label}", max(gains, key=lambda key: (gains[key], key)), both))
        chosen.append((f"largest loss of {model} in {label}", min(gains, key=lambda key: (gains[key], key)), both))
    return chosen


def _video(project: Project, evaluation: str, row: Row, shelf: Shelf) -> Shown | None:
    try:
        return shelf.show(inside(project.evaluation(evaluation), str(row["video"])))
    except ProjectError as error:
        warn(f"{error}; the report leaves it out")
        return None
