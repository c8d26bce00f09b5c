"""What the report reads of the training runs: curves, smoothed, and how to read each.

Input: ``runs/NAME/metrics.jsonl`` and ``config.yaml``. Output: plain series for the plots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from densedpo.observe import read_jsonl
from densedpo.store.project import Project

_MAX_POINTS = 400
_HELD_OUT = "eval/"


@dataclass(frozen=True)
class Series:
    """One measured quantity over training: raw points and, for training steps, their moving mean."""

    steps: list[int]
    raw: list[float]
    smooth: list[float]


@dataclass(frozen=True)
class Run:
    """One run as the page shows it; held-out series carry the prefix ``eval/``."""

    name: str
    config: str
    steps: int
    window: int
    series: dict[str, Series]

    def last(self, key: str) -> float | None:
        """Return the smoothed value at the end of training, None where it was not measured."""
        found = self.series.get(key)
        return found.smooth[-1] if found else None


@dataclass(frozen=True)
class Chart:
    """One picture of the training section: what is drawn and how it is read."""

    key: str
    title: str
    axis: str
    lines: tuple[tuple[str, str], ...]  # (metric, short name)
    healthy: str
    sick: str
    start: float | None = None  # value at step 0 by construction, drawn as a thin line
    start_note: str = ""


CHARTS: tuple[Chart, ...] = (
    Chart(
        "change",
        "Error against the reference",
        "error minus reference's",
        (("winner_change", "winner"), ("loser_change", "loser")),
        "the winner's line stays at or below zero while the loser's rises.",
        "both rise and the loser merely rises faster: the model wins by ruining the loser and takes the winner along.",
        0.0,
        "reference",
    ),
    Chart(
        "margins",
        "Reward margin",
        "margin",
        (("rewards/margins", "train"), ("eval/rewards/margins", "held-out")),
        "it climbs from zero, and the held-out points climb with it.",
        "it stays flat (nothing is learned), or climbs on the training pairs alone (they are memorised).",
        0.0,
        "no preference",
    ),
    Chart(
        "accuracies",
        "Agreement with the labels",
        "share of frames",
        (("rewards/accuracies", "train"), ("eval/rewards/accuracies", "held-out")),
        "both rise above one half, which is guessing; noisy labels keep them well below 1.",
        "training goes to 1 while held-out pairs stay at one half.",
        0.5,
        "guessing",
    ),
    Chart(
        "loser_dominant",
        "Loser-dominant share",
        "share of frames",
        (("loser_dominant_ratio", "train"), ("eval/loser_dominant_ratio", "held-out")),
        "it stays well below the agreement beside it: most frames are won by drawing the winner better.",
        "it rises towards the agreement: frames are won although the winner, too, is drawn worse than before.",
    ),
    Chart(
        "z",
        "Strength of the signal",
        "|z| and share",
        (("z_median_abs", "median |z|"), ("z_saturated_share", "saturated share")),
        "the median |z| grows slowly and few frames are saturated.",
        "most frames are saturated (|z| above 4): the sigmoid is flat there and teaches no more; lower beta.",
    ),
    Chart(
        "loss",
        "Loss",
        "loss",
        (("loss", "train"), ("eval/loss", "held-out")),
        "it starts at log 2 = 0.693 for the preference losses and sinks a little.",
        "held-out loss turns upwards while training loss falls.",
    ),
    Chart(
        "grad_norm",
        "Gradient norm",
        "norm before clipping",
        (("grad_norm", "train"),),
        "it stays within one order of magnitude.",
        "spikes that grow, or a fall to zero in the middle of the run.",
    ),
)

ERRORS = Chart(
    "errors",
    "The four errors",
    "mean squared error",
    (
        ("policy_winner_error", "winner"),
        ("policy_loser_error", "loser"),
        ("reference_winner_error", "winner, reference"),
        ("reference_loser_error", "loser, reference"),
    ),
    "the policy's winner error stays at or below the reference's, and its loser error only a little above.",
    "both policy lines climb away from the reference: the model forgets how to draw.",
)


def moving_mean(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Return the centred moving mean over ``window`` (odd) points; near the ends over those that exist."""
    assert window % 2 == 1
    data = np.asarray(values, dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(data)])
    place = np.arange(len(data))
    low, high = np.maximum(place - window // 2, 0), np.minimum(place + window // 2 + 1, len(data))
    smooth: NDArray[np.float64] = (total[high] - total[low]) / (high - low)
    return smooth


def window_of(steps: int) -> int:
    """Return the odd smoothing window for a run of ``steps`` steps: about a twentieth of it."""
    return max(1, steps // 20) // 2 * 2 + 1


def _series(steps: Sequence[int], values: Sequence[float], window: int) -> Series:
    smooth = moving_mean(values, window)
    keep = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MAX_POINTS)).round().astype(int))
    return Series(
        [int(steps[i]) for i in keep],
        [float(values[i]) for i in keep],
        [float(smooth[i]) for i in keep],
    )


def read_runs(project: Project) -> list[Run]:
    """Read every run that has logged at least one step, in order of name."""
    found = sorted(project.runs.glob("*/metrics.jsonl")) if project.runs.is_dir() else []
    runs = []
    for path in found:
        if path.parent.name.startswith("."):
            continue
        rows = read_jsonl(path)
        points: dict[str, tuple[list[int], list[float]]] = {}
        for row in rows:
            for key, value in row.items():
                if key != "step" and isinstance(value, int | float):
                    steps, values = points.setdefault(key, ([], []))
                    steps.append(int(row["step"]))
                    values.append(float(value))
        if not points:
            continue
        count = max(int(row["step"]) for row in rows)
        window = window_of(count)
        series = {
            key: _series(steps, values, 1 if key.startswith(_HELD_OUT) else window)
            for key, (steps, values) in points.items()
        }
        config = path.with_name("config.yaml")
        text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
        runs.append(Run(path.parent.name, text, count, window, series))
    return runs
