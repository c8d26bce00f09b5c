"""The metric judge: classical measures, no weights. It is weak, and meant for trying the loop without people.

It prefers the side that changes less between frames once motion is compensated, and that is sharper. Motion itself is
not among its measures, yet fast content is harder to compensate and a frozen picture changes not at all, so a
preference for slow clips leaks in (on faultless drawn clips 70 % of its preferences go to the slower one). It knows
nothing of captions, and faults that add edges can please it. ``densedpo label audit`` shows what it prefers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.measure import measure
from densedpo.keys import content_id
from densedpo.labels.judges.base import Judgement, SegmentPair

_VERSION = 1
_TEMPORAL_WEIGHT = 1.0
_SHARPNESS_WEIGHT = 1.0
# About one 8-bit level: what is below is rounding and compression, not quality.
_FLOOR = 1 / 255


@dataclass(frozen=True)
class MetricJudge:
    """Judge by w_t log(temporal error of b / of a) + w_s log(sharpness of a / of b); a tie within +-``tie_band``.

    Temporal error is mean flicker plus mean warp error, sharpness the mean gradient of luma (clips/measure.py); both
    are raised by about one grey level, so that clean segments do not differ by ratios of noise. Swapping the sides
    swaps the answer exactly.
    """

    tie_band: float = 0.05
    parallel: int = 1

    @property
    def name(self) -> str:
        """Return the name that answers are stored under."""
        return "metric"

    @property
    def settings_digest(self) -> str:
        """Return the id of version, weights and tie band."""
        return content_id("metric", _VERSION, _TEMPORAL_WEIGHT, _SHARPNESS_WEIGHT, _FLOOR, self.tie_band)

    def judge(self, pair: SegmentPair) -> Judgement:
        """Return the judgement; fewer than two frames cannot be judged."""
        if min(len(pair.frames_a), len(pair.frames_b)) < 2:
            return Judgement("cannot_judge", reason="fewer than two frames: nothing to compare over time")
        error_a, sharpness_a = _measures(pair.frames_a, pair.fps)
        error_b, sharpness_b = _measures(pair.frames_b, pair.fps)
        lead = _quality(error_a, sharpness_a) - _quality(error_b, sharpness_b)
        reason = (
            f"quality lead of a {lead:+.3f}, tie within {self.tie_band:g}; "
            f"temporal error a {error_a:.4f} b {error_b:.4f}; sharpness a {sharpness_a:.4f} b {sharpness_b:.4f}"
        )
        if abs(lead) <= self.tie_band:
            return Judgement("tie", reason=reason)
        return Judgement("a" if lead > 0 else "b", reason=reason)


def _measures(frames: NDArray[np.uint8], fps: float) -> tuple[float, float]:
    found = measure(frames, fps)
    return float(found.flicker.mean() + found.warp_error.mean()), float(found.sharpness.mean())


def _quality(temporal_error: float, sharpness: float) -> float:
    return _SHARPNESS_WEIGHT * math.log(sharpness + _FLOOR) - _TEMPORAL_WEIGHT * math.log(temporal_error + _FLOOR)
