"""Does the examiner measure what it claims? Clean clips against what was drawn, and planted defects against clean.

``validate`` is what ``densedpo miniworld validate`` runs and what the documentation quotes. Clean clips are examined
as drawn and again after the package's own video files (MASTER profile), because that is what labels and scores see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.decode import read_video
from densedpo.clips.encode import write_video
from densedpo.miniworld import scenes
from densedpo.miniworld.defects import path_steps, plant
from densedpo.miniworld.examiner import Examination, examine
from densedpo.observe import track

Floats = NDArray[np.float64]

# Which score each defect must worsen.
EXPECTED: dict[str, tuple[str, ...]] = {
    "missing part": ("artifact",),
    "wrong colour": ("artifact",),
    "wrong colour throughout": ("artifact", "text_agreement"),
    "flicker": ("temporal_consistency",),
    "jump": ("temporal_consistency",),
    "freeze": ("temporal_consistency",),
    "blur": ("artifact",),
    "deformed": ("artifact",),
    "see-through": ("artifact",),
    "doubled": ("artifact",),
    "vanished": ("artifact",),
}
# How far a score must worsen to count as moved: several times what it varies by between clean clips.
MARGINS = {"artifact": 0.02, "temporal_consistency": 0.01, "text_agreement": 0.1}
MOVING_PX_S = 3.0  # freezes are planted in clips that move at least this fast: others look still anyway


@dataclass(frozen=True)
class Limits:
    """What must hold."""

    worst_artifact: float = 0.05
    least_consistency: float = 0.95
    least_text: float = 0.95
    share: float = 0.95
    speed_correlation: float = 0.2
    size_correlation: float = 0.1
    motion_correlation: float = 0.97


LIMITS = Limits()


def validate(trials: int, seed: int) -> dict[str, Any]:
    """Examine clean clips and ``trials`` clips with each defect.

    Args:
        trials: clips for each kind of defect; clean clips are four times as many, and at least two of each subject.
        seed: of scenes and defects.

    Returns:
        ``clean`` (as drawn and as encoded), ``defects`` (for each kind the share of trials in which each expected score
        moved, and its mean before and after), and ``failures``, the limits that do not hold, empty when all is well.
    """
    count = max(4 * trials, 2 * len(scenes.subjects()))
    drawn = [_scene(index, seed) for index in range(count)]
    exams: list[Examination] = []
    encoded: list[Examination] = []
    with TemporaryDirectory() as folder:
        for scene in track(drawn, "clean clips"):
            frames = scenes.render(scene)
            exams.append(examine(frames, scene.subject.caption))
            path = Path(folder) / "clip.mp4"
            write_video(path, frames, scenes.FPS)
            encoded.append(examine(read_video(path).frames, scene.subject.caption))
    clean = {"drawn": _clean_row(drawn, exams), "encoded": _clean_row(drawn, encoded)}
    defects = {kind: _defect_row(kind, drawn, exams, trials, seed) for kind in track(EXPECTED, "planted defects")}
    return {
        "trials": trials,
        "seed": seed,
        "clean": clean,
        "defects": defects,
        "failures": _failures(clean, defects),
    }


def _scene(index: int, seed: int) -> scenes.Scene:
    subjects = scenes.subjects()
    return scenes.draw_scene(subjects[index % len(subjects)], "validation", seed, index)


def _clean_row(drawn: list[scenes.Scene], exams: list[Examination]) -> dict[str, float]:
    scores = {name: np.array([exam.scores()[name] for exam in exams]) for name in exams[0].scores()}
    speed = np.array([path_steps(scene).mean() * scenes.FPS for scene in drawn])
    size = np.array([scene.radius_px for scene in drawn])
    artifact = scores["artifact"]
    good = (
        (artifact <= LIMITS.worst_artifact)
        & (scores["temporal_consistency"] >= LIMITS.least_consistency)
        & (scores["text_agreement"] >= LIMITS.least_text)
    )
    row = {
        "clips": float(len(drawn)),
        "artifact": artifact.mean(),
        "worst_artifact": artifact.max(),
        "temporal_consistency": scores["temporal_consistency"].mean(),
        "least_temporal_consistency": scores["temporal_consistency"].min(),
        "text_agreement": scores["text_agreement"].mean(),
        "share_within_limits": good.mean(),
        "artifact_speed_correlation": _correlation(artifact, speed),
        "artifact_size_correlation": _correlation(artifact, size),
        "consistency_speed_correlation": _correlation(scores["temporal_consistency"], speed),
        "motion_correlation": _correlation(scores["dynamic_degree"], speed),
        "motion_ratio": scores["dynamic_degree"].mean() / speed.mean(),
    }
    return {name: float(value) for name, value in row.items()}


def _correlation(left: Floats, right: Floats) -> float:
    """Return Pearson's correlation, 0 where one side does not vary at all."""
    if left.std() == 0 or right.std() == 0:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def _defect_row(
    kind: str, drawn: list[scenes.Scene], exams: list[Examination], trials: int, seed: int
) -> dict[str, Any]:
    least = MOVING_PX_S if kind == "freeze" else 0.0
    usable = [index for index, scene in enumerate(drawn) if path_steps(scene).mean() * scenes.FPS >= least]
    # Neighbours in the list differ in motion only; a stride prime to the subjects' number spreads the trials.
    chosen = [usable[number * 7 % len(usable)] for number in range(trials)]
    before = [exams[index] for index in chosen]
    after = [
        examine(plant(kind, drawn[index], seed, number).frames, drawn[index].subject.caption)
        for number, index in enumerate(chosen)
    ]
    rows = {}
    for score in EXPECTED[kind]:
        clean = np.array([exam.scores()[score] for exam in before])
        defect = np.array([exam.scores()[score] for exam in after])
        worse = defect - clean if score == "artifact" else clean - defect
        rows[score] = {
            "moved": float((worse >= MARGINS[score]).mean()),
            "clean": float(clean.mean()),
            "defect": float(defect.mean()),
        }
    speeds = [np.mean([exam.speed_px_s.mean() for exam in group]) for group in (after, before)]
    return {"trials": trials, "scores": rows, "speed_ratio": float(speeds[0] / speeds[1])}


def _failures(clean: dict[str, dict[str, float]], defects: dict[str, dict[str, Any]]) -> list[str]:
    failures = []
    for how, row in clean.items():
        checks = {
            "artifact": row["artifact"] <= LIMITS.worst_artifact,
            "temporal_consistency": row["temporal_consistency"] >= LIMITS.least_consistency,
            "text_agreement": row["text_agreement"] >= LIMITS.least_text,
            "share_within_limits": row["share_within_limits"] >= LIMITS.share,
            "artifact_speed_correlation": abs(row["artifact_speed_correlation"]) < LIMITS.speed_correlation,
            "artifact_size_correlation": abs(row["artifact_size_correlation"]) < LIMITS.size_correlation,
            "motion_correlation": row["motion_correlation"] >= LIMITS.motion_correlation,
        }
        failures += [f"clean clips as {how}: {name} is {row[name]:.3g}" for name, holds in checks.items() if not holds]
    for kind, defect in defects.items():
        failures += [
            f"{kind}: {score} moved in {moved['moved']:.1%} of the trials"
            for score, moved in defect["scores"].items()
            if moved["moved"] < LIMITS.share
        ]
    return failures
