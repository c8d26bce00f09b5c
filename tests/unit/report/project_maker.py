"""Fabricates a small but truthful project for the report's tests: drawn videos, planted defects, labels that follow
from the defects, a real audit and snapshot, plausible training logs, and an evaluation whose intervals are computed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from densedpo.clips.encode import write_video
from densedpo.config import Settings, StudySettings, dump_settings
from densedpo.evaluation.properties import PREFIX, PROPERTIES
from densedpo.evaluation.scorers import ScoreInfo
from densedpo.evaluation.study.plan import Plan, Take, plan_items
from densedpo.evaluation.study.questions import QUESTIONS
from densedpo.evaluation.study.results import results_of
from densedpo.evaluation.study.votes import answers_of
from densedpo.evaluation.summary import analyse
from densedpo.evaluation.variants import Variant
from densedpo.keys import content_id, stream
from densedpo.labels.agreement import agreement
from densedpo.labels.answers import Answer, AnswerEvent
from densedpo.labels.audit import audit
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.snapshot import freeze
from densedpo.labels.store import LabelStore, StoredEvent
from densedpo.miniworld.scenes import FPS, NUM_FRAMES, SIZE_PX, draw_scene, render, subjects
from densedpo.store.files import read_json, write_json, write_text
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table, write_table

Frames = NDArray[np.uint8]
GRID = SegmentGrid(NUM_FRAMES, FPS, 1.0)
SCORE_INFO: dict[str, dict[str, Any]] = {
    "artifact": {
        "label": "artifacts",
        "unit": "",
        "better": "lower",
        "sentence": "How much of the captioned object is missing or misdrawn: 0 is perfect, about 1 is an empty frame.",
    },
    "temporal_consistency": {
        "label": "Consistency",
        "unit": "",
        "better": "higher",
        "sentence": "Whether size, colour and path change smoothly from frame to frame; 1 is perfect.",
    },
    "dynamic_degree": {
        "label": "motion",
        "unit": "px/s",
        "better": "higher",
        "sentence": "Speed of the object along its smoothed path.",
        "is_motion": True,
    },
    "text_agreement": {
        "label": "Text agreement",
        "unit": "",
        "better": "higher",
        "sentence": "Whether shape and colour are those of the prompt; 1 is both.",
    },
}


def spoil(frames: Frames, strength: NDArray[np.float64], *ids: str) -> Frames:
    """Add noise to each frame, ``strength`` [T] in grey levels."""
    rng = stream("test", "spoil", *ids)
    grain = rng.normal(size=frames.shape) * strength[:, None, None, None]
    spoilt: Frames = np.clip(frames + grain, 0, 255).round().astype(np.uint8)
    return spoilt


def answer_to(a: float, b: float) -> Answer:
    """Answer by the planted defects alone."""
    if min(a, b) > 38:
        return "both_bad"
    if abs(a - b) < 6:
        return "tie"
    return "a" if a < b else "b"


def _side(caption_of: int, mode: str, side: str, pair_id: str) -> tuple[Frames, NDArray[np.float64]]:
    subject = subjects()[caption_of * 7 % 114]
    scene = draw_scene(subject, f"p{caption_of:03d}" if mode == "guided" else f"{pair_id}-{side}")
    rng = stream("test", "defect", pair_id, side)
    per_segment = rng.uniform(2, 34, GRID.num_segments)
    if mode == "independent":  # faster clips come out worse, as they do from real models
        per_segment = per_segment * 0.6 + 1.9 * scene.speed_px_s
    return spoil(render(scene), per_segment[GRID.frame_segment], pair_id, side), per_segment


def add_clips(project: Project, count: int, captions: dict[int, str]) -> None:
    rows = []
    for place in range(count):
        subject = subjects()[place * 7 % 114]
        clip_id = content_id("test clip", place)
        folder = project.clips / clip_id
        write_video(folder / "clip.mp4", render(draw_scene(subject, f"p{place:03d}")), FPS, profile="master")
        rows.append({"clip_id": clip_id, "caption": captions.get(place, subject.caption)})
    write_table(project.clips_table, rows, pa.schema([("clip_id", pa.string()), ("caption", pa.string())]))


def add_pairs(project: Project, count: int, captions: dict[int, str]) -> dict[str, list[Answer]]:
    """Write pairs of both modes; return the answer that the planted defects call for, by pair and segment."""
    rows: list[Row] = []
    answers: dict[str, list[Answer]] = {}
    for mode in ("guided", "independent"):
        for place in range(count):
            pair_id = content_id("test pair", mode, place)
            drawn = {side: _side(place, mode, side, pair_id) for side in ("a", "b")}
            for side, (frames, _) in drawn.items():
                write_video(project.pairs / pair_id / f"{side}.mp4", frames, FPS, profile="master")
            answers[pair_id] = [answer_to(x, y) for x, y in zip(drawn["a"][1], drawn["b"][1], strict=True)]
            rows.append(
                {
                    "pair_id": pair_id,
                    "clip_id": content_id("test clip", place),
                    "caption": captions.get(place, subjects()[place * 7 % 114].caption),
                    "mode": mode,
                    "eta": 0.65 + 0.15 * place / count if mode == "guided" else 1.0,
                    "fps": FPS,
                    "num_frames": NUM_FRAMES,
                    "height": SIZE_PX,
                    "width": SIZE_PX,
                    "duration_s": GRID.duration_s,
                    "steps": 20,
                    "cfg": 3.0,
                    "shift": 3.0,
                    "model_fingerprint": "4f1c9a7be2d03356",
                }
            )
    write_table(project.pairs_table, rows, pa.Table.from_pylist(rows).schema)
    return answers


def add_labels(project: Project, answers: dict[str, list[Answer]]) -> None:
    """Store, freeze and audit the answers; a few segments stay unlabelled."""
    events = [
        AnswerEvent(pair_id, place, answer, "ok", "simulated", "annotator-1", 1.0, *GRID.bounds_s(place))
        for number, (pair_id, found) in enumerate(answers.items())
        for place, answer in enumerate(found)
        if (number, place) not in {(1, 3), (20, 0)}
    ]
    with LabelStore.open(project.labels_database) as store:
        store.append(events)
    freeze(project)
    audit(project)


def add_run(project: Project, name: str, steps: int = 120, gain: float = 1.0) -> None:
    """Write a training log whose curves look like those of a healthy run."""
    rng = stream("test", "run", name)
    lines = []
    for step in range(1, steps + 1):
        way = gain * (1 - np.exp(-step / 60))
        base = 0.30 + 0.04 * rng.normal()
        winner, loser = base - 0.004 * way, base + 0.02 + 0.006 * way
        margin = 2.2 * way + 0.35 * rng.normal()
        row: dict[str, Any] = {
            "step": step,
            "loss": 0.693 - 0.22 * way + 0.03 * rng.normal(),
            "learning_rate": 3e-4 * min(1.0, step / 30),
            "grad_norm": 0.8 + 0.3 * abs(rng.normal()),
            "rewards/chosen": margin * 0.4,
            "rewards/rejected": -margin * 0.6,
            "rewards/margins": margin,
            "rewards/accuracies": float(np.clip(0.5 + 0.26 * way + 0.06 * rng.normal(), 0, 1)),
            "policy_winner_error": winner,
            "policy_loser_error": loser,
            "reference_winner_error": base,
            "reference_loser_error": base + 0.02,
            "winner_change": winner - base,
            "loser_change": loser - base - 0.02,
            "loser_dominant_ratio": float(np.clip(0.4 + 0.1 * way + 0.05 * rng.normal(), 0, 1)),
            "z_median_abs": abs(1.4 * way + 0.1 * rng.normal()),
            "z_saturated_share": 0.03 * way,
            "non_tie_frames": 90,
        }
        lines.append(row)
        if step % 20 == 0:
            held = {"step": step, "eval/loss": 0.693 - 0.15 * way, "eval/rewards/margins": 1.5 * way}
            held |= {"eval/rewards/accuracies": 0.5 + 0.18 * way, "eval/loser_dominant_ratio": 0.45}
            lines.append(held)
    folder = project.runs / name  # also names that only a hand could have made
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_text(folder / "config.yaml", dump_settings(Settings()))


def add_evaluation(project: Project, runs: list[str], prompts: int = 6, prompt: str | None = None) -> None:
    """Write videos, scores and a summary; the runs draw with less noise, the second of them by moving less too."""
    folder = project.evaluation("held-out")
    chosen = [subjects()[(place * 11 + 3) % 114].caption for place in range(prompts)]
    if prompt is not None:
        chosen[0] = prompt
    variants = [Variant("base")]
    for run in runs:
        variants += [Variant(f"{run}@0.5", run, 0.5), Variant(run, run, 1.0)]
    rows = [
        _sample(folder, variant, runs, place, text, seed)
        for variant in variants
        for place, text in enumerate(chosen)
        for seed in (0, 1)
    ]
    frozen = [{**row, "dynamic_degree": 0.0, "temporal_consistency": 0.99} for row in rows if row["model"] == "base"]
    write_table(folder / "scores.parquet", rows, pa.Table.from_pylist(rows).schema)
    write_json(folder / "summary.json", _summary(rows, frozen, variants, chosen))


def _sample(folder: Path, variant: Variant, runs: list[str], place: int, text: str, seed: int) -> Row:
    number = 0 if variant.run is None else runs.index(variant.run) + 1
    subject = subjects()[(place * 11 + 3) % 114]
    scene = draw_scene(subject, "evaluation", seed, place)
    rng = stream("test", "evaluation", variant.name, place, seed)
    noise = max(1.0, 24.0 - 6.5 * number * variant.lora_scale + 7 * rng.normal())
    prompt_id = content_id("prompt", place)
    path = f"videos/{content_id('model', variant.name)}/{prompt_id}-{seed}.mp4"
    if variant.lora_scale in (0.0, 1.0):  # the page shows no others
        frames = spoil(render(scene), np.full(NUM_FRAMES, noise), variant.name, prompt_id, str(seed))
        write_video(folder / path, frames, FPS, profile="master")
    moves = 1 - 0.2 * max(0, number - 1) * variant.lora_scale + 0.04 * rng.normal()
    return {
        "model": variant.name,
        "prompt_id": prompt_id,
        "prompt": text,
        "seed": seed,
        "video": path,
        "artifact": noise / 60,
        "temporal_consistency": 0.97 - noise / 400,
        "dynamic_degree": scene.speed_px_s * moves,
        "text_agreement": float(np.clip(1 - noise / 120 + 0.05 * rng.normal(), 0, 1)),
        **{f"{PREFIX}{name}": 0.4 + 0.02 * rng.normal() + 0.1 * number * (name == "saturation") for name in PROPERTIES},
    }


def _summary(rows: list[Row], frozen: list[Row], variants: list[Variant], prompts: list[str]) -> dict[str, Any]:
    infos = {name: ScoreInfo(**info) for name, info in SCORE_INFO.items()}
    return {
        "schema_version": 2,
        "name": "held-out",
        "models": [variant.as_dict() for variant in variants],
        "prompts": [
            {"prompt_id": content_id("prompt", place), "prompt": text, "held_out": True}
            for place, text in enumerate(prompts)
        ],
        "prompt_set": {"name": "held-out", "digest": "0" * 16, "count": len(prompts), "held_out": len(prompts)},
        "seeds": [0, 1],
        "scorer": "examiner",
        "score_info": SCORE_INFO,
        **analyse(rows, frozen, infos, variants, quality="artifact", motion_kept=0.9),
        "settings": {"steps": 20, "cfg": 3.0, "shift": 3.0},
        "hashes": {"base": "4f1c9a7be2d03356", **{v.name: content_id("weights", v.name) for v in variants[1:]}},
    }


def add_suite(project: Project) -> None:
    """Have a stand-in for an outside suite score the videos: how bright they are."""
    folder = project.evaluation("held-out")
    scores = {model: found["artifact"] for model, found in read_json(folder / "summary.json")["scores"].items()}
    suite = {
        "suite": "brightness",
        "version": "1",
        "compared": 12,
        "failed": [],
        "notes": ["A stand-in."],
        "models": list(scores),
        "score_info": {"bright": {"label": "brightness", "unit": "", "better": "neither", "sentence": "Mean luma."}},
        "scores": {model: {"bright": found} for model, found in scores.items()},
        "differences": {model: {"bright": None} for model in scores if model != "base"},
    }
    write_json(folder / "suite_brightness.json", suite)


def add_judge(project: Project, answers: dict[str, list[Answer]]) -> None:
    """Store what a judge says that is right three times in four and knows when, and measure it."""
    rng = stream("test", "judge")
    events = []
    for pair_id, found in answers.items():
        for place, answer in enumerate(found):
            right = rng.uniform() < 0.75
            said: Answer = answer if right else ("b" if answer == "a" else "a")
            sure = float(np.clip((0.85 if right else 0.6) + 0.1 * rng.normal(), 0, 1))
            event = AnswerEvent(pair_id, place, said, "ok", "judge", "vlm:test", 1.0, *GRID.bounds_s(place), sure)
            events.append(event)
    with LabelStore.open(project.labels_database) as store:
        store.append(events)
    agreement(project, 1.0, "simulated")


def add_study(project: Project, models: list[str]) -> None:
    """Write what three people said who prefer the later model two times in three, and its results."""
    folder = project.evaluation("held-out")
    rows = read_table(folder / "scores.parquet")
    samples = {
        (row["model"], row["prompt_id"], row["seed"]): Take(row["model"], row["seed"], row["video"], row["video"])
        for row in rows
    }
    prompts = {row["prompt_id"]: row["prompt"] for row in rows}
    items = plan_items(samples, prompts, models, QUESTIONS, StudySettings())
    plan = Plan("held-out", tuple(models), QUESTIONS, {item.item_id: item for item in items}, {})
    rng = stream("test", "study")
    events = [
        AnswerEvent(
            item.item_id,
            place,
            "tie" if item.kind != "models" or rng.uniform() < 0.3 else "b" if rng.uniform() < 0.67 else "a",
            "ok",
            "person",
            person,
            1.0,
            0.0,
            1.0,
            dwell_s=4.0,
            shown_first="a" if rng.uniform() < 0.5 else "b",
        )
        for person in ("one", "two", "three")
        for item in items
        for place in range(len(QUESTIONS))
    ]
    stored = [StoredEvent(number, 0, 0.0, event) for number, event in enumerate(events, start=1)]
    write_json(folder / "study.json", results_of(answers_of(plan, stored)))


def make_project(
    root: Path,
    *,
    pairs: int = 14,
    runs: tuple[str, ...] = ("dense", "vanilla"),
    captions: dict[int, str] | None = None,
    prompt: str | None = None,
) -> Project:
    """Make the whole project: ``pairs`` pairs of each mode, one run a name, one evaluation over all of them."""
    project = Project(root)
    write_text(project.settings_file, dump_settings(Settings(seed=7), only_changed=True))
    add_clips(project, pairs, captions or {})
    answers = add_pairs(project, pairs, captions or {})
    add_labels(project, answers)
    add_judge(project, answers)
    for place, name in enumerate(runs):
        add_run(project, name, gain=1.0 - 0.4 * place)
    add_evaluation(project, list(runs), prompt=prompt)
    add_suite(project)
    add_study(project, ["base", *runs])
    return project
