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
from densedpo.config import Settings, dump_settings
from densedpo.intervals import cluster_bootstrap
from densedpo.keys import content_id, stream
from densedpo.labels.answers import Answer, AnswerEvent
from densedpo.labels.audit import audit
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.snapshot import freeze
from densedpo.labels.store import LabelStore
from densedpo.miniworld.scenes import FPS, NUM_FRAMES, SIZE_PX, draw_scene, render, subjects
from densedpo.store.files import write_json, write_text
from densedpo.store.project import Project
from densedpo.store.tables import Row, write_table

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
    """Write videos, scores and a summary; the runs draw with less noise and move as the base does."""
    folder = project.evaluation("held-out")
    chosen = [subjects()[(place * 11 + 3) % 114].caption for place in range(prompts)]
    if prompt is not None:
        chosen[0] = prompt
    rows: list[Row] = []
    for number, model in enumerate(["base", *runs]):
        for place, text in enumerate(chosen):
            for seed in (0, 1):
                subject = subjects()[(place * 11 + 3) % 114]
                scene = draw_scene(subject, "evaluation", seed, place)
                rng = stream("test", "evaluation", model, place, seed)
                noise = max(1.0, 24.0 - 4.5 * number + 7 * rng.normal())
                prompt_id = content_id("prompt", place)
                path = f"videos/{content_id('model', model)}/{prompt_id}-{seed}.mp4"
                frames = spoil(render(scene), np.full(NUM_FRAMES, noise), model, prompt_id, str(seed))
                write_video(folder / path, frames, FPS, profile="master")
                rows.append(
                    {
                        "model": model,
                        "prompt_id": prompt_id,
                        "prompt": text,
                        "seed": seed,
                        "video": path,
                        "artifact": noise / 60,
                        "temporal_consistency": 0.97 - noise / 400,
                        "dynamic_degree": scene.speed_px_s * (1 + 0.06 * rng.normal()),
                        "text_agreement": float(np.clip(1 - noise / 120 + 0.05 * rng.normal(), 0, 1)),
                    }
                )
    write_table(folder / "scores.parquet", rows, pa.Table.from_pylist(rows).schema)
    write_json(folder / "summary.json", _summary(rows, ["base", *runs], chosen))


def _summary(rows: list[Row], models: list[str], prompts: list[str]) -> dict[str, Any]:
    base = {(row["prompt_id"], row["seed"]): row for row in rows if row["model"] == "base"}
    scores: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for model in models:
        own = [row for row in rows if row["model"] == model]
        clusters = [row["prompt_id"] for row in own]
        for score in SCORE_INFO:
            found = cluster_bootstrap([row[score] for row in own], clusters, seed=score)
            gaps = [row[score] - base[row["prompt_id"], row["seed"]][score] for row in own]
            gap = cluster_bootstrap(gaps, clusters, seed=score)
            both = [[row[score], base[row["prompt_id"], row["seed"]][score]] for row in own]
            ratio = cluster_bootstrap(both, clusters, seed=score)
            scores.setdefault(model, {})[score] = found and found.as_dict()
            if model != "base":
                differences.setdefault(model, {})[score] = gap and gap.as_dict()
                ratios.setdefault(model, {})[score] = ratio and ratio.as_dict()
    return {
        "schema_version": 1,
        "name": "held-out",
        "models": [{"name": model} for model in models],
        "prompts": [
            {"prompt_id": content_id("prompt", place), "prompt": text, "held_out": True}
            for place, text in enumerate(prompts)
        ],
        "seeds": [0, 1],
        "scores": scores,
        "differences": differences,
        "ratios": ratios,
        "score_info": SCORE_INFO,
        "settings": {"steps": 20, "cfg": 3.0, "shift": 3.0},
        "hashes": {"base": "4f1c9a7be2d03356", **{model: content_id("weights", model) for model in models[1:]}},
    }


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
    add_labels(project, add_pairs(project, pairs, captions or {}))
    for place, name in enumerate(runs):
        add_run(project, name, gain=1.0 - 0.4 * place)
    add_evaluation(project, list(runs), prompt=prompt)
    return project
