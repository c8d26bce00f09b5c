"""The stage ``evaluate``: base against tuned models on a prompt set, from the same noise, with paired intervals.

prompts x seeds -> videos of every model -> scores.parquet -> summary.json
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from densedpo.clips.decode import read_video
from densedpo.config import Settings
from densedpo.errors import ConfigError
from densedpo.evaluation.prompts import Prompt, prompts_digest
from densedpo.evaluation.sampling import SampledVideo, resolve_sampling, sample_videos
from densedpo.evaluation.scorers import Scorer
from densedpo.intervals import Interval, cluster_bootstrap
from densedpo.models.load import load_tuned, tuned_digest
from densedpo.observe import track
from densedpo.store.files import write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row, write_table
from densedpo.training.card import update_card

SCHEMA_VERSION = 1
BASE = "base"


def evaluate(
    project: Project, settings: Settings, runs: Sequence[str], prompts: Sequence[Prompt], scorer: Scorer, name: str
) -> dict[str, Any]:
    """Sample and score the base and every run; write ``evals/NAME`` and return the summary.

    Repeated runs and prompts count once.

    Raises:
        ConfigError: if no prompt is given, the scorer cannot score one, or a run is called ``base``.
        ProjectError: if there is no such run.
        ModelError: if a run has no LoRA or tuned denoiser, or was trained on another base.
    """
    runs, prompts = list(dict.fromkeys(runs)), list(dict.fromkeys(prompts))
    if not prompts:
        raise ConfigError("no prompts to evaluate on; give --prompts FILE")
    if BASE in runs:
        raise ConfigError(f"a run may not be called {BASE!r} here: that name is the untuned model's")
    for prompt in prompts:
        scorer.check(prompt.text)
    tuned = {run: project.need(project.run(run), f"densedpo train --name {run}") for run in runs}
    digests = {run: tuned_digest(folder) for run, folder in tuned.items()}
    folder = project.evaluation(name)
    rows: list[Row] = []
    fingerprint, recipe = "", None
    # the old summary speaks of videos that may be made again now: while this goes on there is none
    (folder / "summary.json").unlink(missing_ok=True)
    for model_name in [BASE, *runs]:
        model = load_tuned(
            settings.model,
            tuned.get(model_name),
            revision=settings.revision,
            device=settings.device,
            dtype=settings.sample.dtype,
        )
        fingerprint = fingerprint or model.fingerprint  # the base comes first; a tuned denoiser has one of its own
        recipe = resolve_sampling(settings.sample, model.defaults)
        videos = sample_videos(model, prompts, recipe, folder / "videos" / model_name, model_name)
        rows += [_score(project, name, model_name, video, scorer) for video in track(videos, f"scoring {model_name}")]
    assert recipe is not None
    score_names = list(scorer.infos)
    columns = [("model", pa.string()), ("prompt_id", pa.string()), ("prompt", pa.string()), ("seed", pa.int64())]
    columns += [("video", pa.string()), *((score, pa.float64()) for score in score_names)]
    write_table(folder / "scores.parquet", rows, pa.schema(columns))
    summary = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "models": [{"name": model_name} for model_name in [BASE, *runs]],
        "prompts": [{"prompt_id": p.prompt_id, "prompt": p.text, "held_out": p.held_out} for p in prompts],
        "seeds": list(range(recipe.seeds)),
        "scorer": scorer.name,
        "score_info": {score: info.as_dict() for score, info in scorer.infos.items()},
        **summarise(rows, score_names, runs),
        "settings": vars(recipe) | {"model": settings.model},
        "hashes": {"base": fingerprint, "prompts": prompts_digest(prompts), "loras": digests},
    }
    write_json(folder / "summary.json", summary)
    for run in runs:
        update_card(project, run)
    return summary


def summarise(rows: Sequence[Row], score_names: Sequence[str], runs: Sequence[str]) -> dict[str, Any]:
    """Return scores, differences and ratios with 95 % intervals: bootstrap over prompts, seeds nested inside.

    A ratio is sum(tuned) / sum(base); None where the base's scores are all zero or one is negative.
    """
    scores: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    base = {(row["prompt_id"], row["seed"]): row for row in rows if row["model"] == BASE}
    for model in [BASE, *runs]:
        own = [row for row in rows if row["model"] == model]
        clusters = [row["prompt_id"] for row in own]
        scores[model] = {s: _plain(cluster_bootstrap([r[s] for r in own], clusters, seed=s)) for s in score_names}
        if model != BASE:
            pairs = [(row, base[row["prompt_id"], row["seed"]]) for row in own]
            differences[model] = {
                s: _plain(cluster_bootstrap([r[s] - b[s] for r, b in pairs], clusters, seed=s)) for s in score_names
            }
            ratios[model] = {
                s: _plain(cluster_bootstrap([[r[s], b[s]] for r, b in pairs], clusters, seed=s))
                if all(b[s] >= 0 for _, b in pairs)
                else None
                for s in score_names
            }
    return {"scores": scores, "differences": differences, "ratios": ratios}


def _plain(interval: Interval | None) -> dict[str, float | int] | None:
    return None if interval is None else interval.as_dict()


def _score(project: Project, name: str, model: str, video: SampledVideo, scorer: Scorer) -> Row:
    seen = read_video(video.path)
    return {
        "model": model,
        "prompt_id": video.prompt.prompt_id,
        "prompt": video.prompt.text,
        "seed": video.seed,
        "video": str(video.path.relative_to(project.evaluation(name))),
        **scorer.score(seen.frames, seen.fps, video.prompt.text),
    }
