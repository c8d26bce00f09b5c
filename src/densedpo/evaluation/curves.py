"""Quality against motion: one point a model, lines through the variants of a run, and the point to ship.

How much motion a run pays depends on how hard it was trained, so runs are compared along whole curves: the LoRA's scale
(one training gives a curve without retraining) or the checkpoints. ``matched.py`` compares two curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import fdtri

from densedpo.evaluation.matched import matches
from densedpo.evaluation.paired import BASE, Bootstrap, Floats, Table, plain
from densedpo.evaluation.statistics import Better
from densedpo.evaluation.variants import Line, Variant, list_lines
from densedpo.intervals import Interval


@dataclass(frozen=True)
class Plane:
    """The two axes and what belongs to them."""

    table: Table
    bootstrap: Bootstrap
    motion: str
    quality: str
    better: Better
    motion_kept: float

    def draws(self, model: str, name: str) -> Floats:
        """Return [draws] means of one model and score over the drawn prompts; models share the prompts of a draw."""
        return self.bootstrap.ratios(self.table.of(model, name), self.table.seeds)

    def mean(self, model: str, name: str) -> float:
        """Return the mean of one model and score."""
        return float(self.table.of(model, name).sum() / self.table.seeds.sum())

    def interval(self, model: str, name: str) -> Interval | None:
        """Return the mean of one model and score with its interval."""
        return self.bootstrap.interval(self.table.of(model, name), self.table.seeds)

    def motion_ratio(self, model: str) -> Interval | None:
        """Return the model's motion over the base's."""
        return self.bootstrap.ratio(self.table.of(model, self.motion), self.table.of(BASE, self.motion))

    def is_better(self, model: str, other: str) -> bool:
        """Say whether a model's mean quality is better than another's."""
        gap = self.mean(model, self.quality) - self.mean(other, self.quality)
        return gap < 0 if self.better == "lower" else gap > 0


def curves(plane: Plane, variants: Sequence[Variant]) -> dict[str, Any] | None:
    """Return the entry ``curves``; None with fewer than two prompts, where nothing has an interval."""
    if plane.bootstrap.count < 2:
        return None
    lines = list_lines(variants)
    ratios = {variant.name: plane.motion_ratio(variant.name) for variant in variants}
    eligible = {
        name: name == BASE or (ratio is not None and ratio.low >= plane.motion_kept) for name, ratio in ratios.items()
    }
    chosen = _best(plane, [variant.name for variant in variants if eligible[variant.name]])
    points = [
        variant.as_dict()
        | {"model": variant.name}
        | plain({axis: plane.interval(variant.name, name) for axis, name in _axes(plane)})
        | plain({"motion_ratio": ratios[variant.name]})
        | {"ellipse": _ellipse(plane, variant.name)}
        | {"paired_ellipse": None if variant.name == BASE else _ellipse(plane, variant.name, BASE)}
        | {"eligible": eligible[variant.name], "ship": variant.name == chosen}
        for variant in variants
    ]
    by_line = {line.name: _best(plane, [name for name in line.models if eligible[name]]) for line in lines}
    return {
        "motion": plane.motion,
        "quality": plane.quality,
        "better": plane.better,
        "points": [{key: value for key, value in point.items() if key != "name"} for point in points],
        "lines": [asdict(line) | {"models": list(line.models)} for line in lines],
        "ship": _ship(plane, chosen, by_line),
        "matched": _matched(plane, lines),
    }


def _axes(plane: Plane) -> list[tuple[str, str]]:
    return [("motion", plane.motion), ("quality", plane.quality)]


def _best(plane: Plane, names: Sequence[str]) -> str:
    best = names[0]
    for name in names[1:]:
        best = name if plane.is_better(name, best) else best
    return best


def _ship(plane: Plane, chosen: str, by_line: dict[str, str]) -> dict[str, Any]:
    kept = 100 * plane.motion_kept
    rule = (
        f"The best mean {plane.quality} among the models whose motion's interval does not fall below {kept:.0f} % of "
        "the base's. The base is among them."
    )
    sentence = f"Ship {chosen}. It was chosen on these prompts: confirm it on others."
    if not _told_apart(plane, chosen):
        sentence = (
            f"{chosen} has the best mean, but is not told apart from the base in {plane.quality}: "
            "nothing here says that shipping it would help."
        )
    if chosen == BASE:
        sentence = f"Ship nothing: no model has better {plane.quality} and keeps {kept:.0f} % of the base's motion."
    return {
        "rule": rule,
        "motion_kept": plane.motion_kept,
        "model": chosen,
        "by_line": by_line,
        "sentence": sentence,
    }


def _told_apart(plane: Plane, model: str) -> bool:
    gap = plane.bootstrap.interval(
        plane.table.of(model, plane.quality) - plane.table.of(BASE, plane.quality), plane.table.seeds
    )
    return gap is not None and not gap.low <= 0 <= gap.high


def _matched(plane: Plane, lines: Sequence[Line]) -> dict[str, Any]:
    """Compare every two lines at matched motion and at matched quality, both counted from the base of the same draw.

    The base's own motion differs from prompt to prompt far more than models do; as a share of it, curves have a level
    in common in every draw.
    """
    base_motion, base_quality = (_means(plane, BASE, name) for _, name in _axes(plane))
    if base_motion.min() <= 0:
        return {"motion": [], "quality": []}
    drawn = {
        line.name: {
            "motion": np.stack([_means(plane, model, plane.motion) / base_motion for model in line.models], axis=1),
            "quality": np.stack([_means(plane, model, plane.quality) - base_quality for model in line.models], axis=1),
        }
        for line in lines
    }
    return {
        "motion": matches(drawn, "motion", "quality", plane.better, plane.bootstrap),
        "quality": matches(drawn, "quality", "motion", "higher", plane.bootstrap),
    }


def _means(plane: Plane, model: str, name: str) -> Floats:
    """Return [1 + draws]: the mean over all prompts, then over those of each draw."""
    return np.append(plane.mean(model, name), plane.draws(model, name))


def _ellipse(plane: Plane, model: str, other: str | None = None) -> dict[str, Any]:
    """Return the 95 % region of a model's means, or of its difference to another, drawn around the model's means.

    Hotelling's: radii are sqrt(2 (n - 1) / (n - 2) F(0.95; 2, n - 2)) standard errors over n prompts. Two prompts give
    no such region; they get that of an F with one degree of freedom, which is larger than any picture.
    """
    drawn = np.stack([plane.draws(model, name) for _, name in _axes(plane)])
    if other is not None:
        drawn = drawn - np.stack([plane.draws(other, name) for _, name in _axes(plane)])
    prompts = plane.bootstrap.count
    covariance = np.cov(drawn) * prompts / (prompts - 1)  # of the draws: theirs is that much too small
    rest = max(1, prompts - 2)
    radius = np.sqrt(2 * (prompts - 1) / rest * fdtri(2, rest, 0.95))
    lengths, directions = np.linalg.eigh(covariance)
    longest = directions[:, 1] if directions[0, 1] >= 0 else -directions[:, 1]  # a fixed sign: equal bytes each time
    return {
        "center": [plane.mean(model, name) for _, name in _axes(plane)],
        "covariance": covariance.tolist(),
        "radii": (radius * np.sqrt(np.maximum(lengths[::-1], 0.0))).tolist(),
        "angle_rad": float(np.arctan2(longest[1], longest[0])),
    }
