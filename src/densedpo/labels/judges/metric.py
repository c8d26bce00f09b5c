"""The metric judge: classical measures, no weights. It is weak, and meant for trying the loop without people.

It prefers the side that flickers and tears less once motion is compensated, that does not stutter, and that is not
blurred. Faults over time grow with motion, so what changes more is allowed more of them, and a side that stands still
never wins against one that moves. A preference for slow clips leaks in all the same: of two faultless drawn clips it
prefers the slower one in 55 % [47, 63] of its preferences, of generated sides in 71 to 90 % (docs/log.md). It knows
nothing of captions, shapes and limbs. ``densedpo label audit`` shows what it prefers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.measure import measure
from densedpo.keys import content_id
from densedpo.labels.judges.base import Judgement, SegmentPair

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]

_VERSION = 2
_LEVEL = 1 / 255
# A quarter of an 8-bit level: what is below is rounding and compression, not quality.
_FLOOR = 0.25 * _LEVEL
# Moved edges are hard to compensate, so errors by pixel count less than changes of light in an eighth of the picture.
_WARP_WEIGHT = 0.25
# How much of the fault motion excuses: 0 for nothing, 1 for whatever is in proportion to the change.
_MOTION_EXCUSE = 0.2
# A step is held if hardly anything changes in it, by itself and beside the other steps of the same side.
_HELD_LEVELS, _HELD_SHARE = 0.5, 0.2
_HELD_WEIGHT = 3.0
# Sharpness is content unless it differs by a fifth; beyond a factor of three more of it says no more.
_SHARPNESS_WEIGHT = 2.0
_SHARPNESS_CONTENT, _SHARPNESS_MOST = 0.2, 1.0
# Sides differ at a pixel by more than compression would make them.
_DIFFERS_LEVELS = 3
# A side stands still whose change is next to nothing, by itself and beside the other side's.
_STILL_LEVELS, _STILL_SHARE = 0.1, 0.2


@dataclass(frozen=True)
class MetricJudge:
    """Judge by the sum of two log ratios, + where a is better; a tie within +-``tie_band``.

    Over time: log of b's fault over a's. A side's fault is (flicker + warp error / 4) over the steps that are not held
    (clips/measure.py), divided by (mean change)^0.2, times e^(3 x share of held steps).

    In space: twice the log of a's sharpness over b's, where the sides differ, less the fifth that may be content.

    A winner that stands still (median change below a tenth of a level and a fifth of the other's) is a tie. Swapping
    the sides swaps the answer exactly.
    """

    tie_band: float = 0.05
    parallel: int = 1

    @property
    def name(self) -> str:
        """Return the name that answers are stored under."""
        return "metric"

    @property
    def settings_digest(self) -> str:
        """Return the id of version and tie band; the version stands for all weights."""
        return content_id("metric", _VERSION, self.tie_band)

    def judge(self, pair: SegmentPair) -> Judgement:
        """Return the judgement; fewer than two frames cannot be judged."""
        if min(len(pair.frames_a), len(pair.frames_b)) < 2:
            return Judgement("cannot_judge", reason="fewer than two frames: nothing to compare over time")
        a, b = _over_time(pair.frames_a, pair.fps), _over_time(pair.frames_b, pair.fps)
        sharper = _sharper(pair.frames_a, pair.frames_b)
        lead = b.fault - a.fault + _SHARPNESS_WEIGHT * sharper
        told = (
            f"lead of a {lead:+.3f}, tie within {self.tie_band:g}; log fault over time a {a.fault:.2f} b {b.fault:.2f}"
            f"; held steps a {a.held:.0%} b {b.held:.0%}; a sharper by {sharper:+.2f}"
        )
        raw = json.dumps({"margin": lead})
        if abs(lead) <= self.tie_band:
            return Judgement("tie", reason=told, raw=raw)
        winner, loser = (a, b) if lead > 0 else (b, a)
        if winner.change < min(_STILL_LEVELS * _LEVEL, _STILL_SHARE * loser.change):
            return Judgement("tie", reason=f"{told}; the better side stands still while the other moves", raw=raw)
        return Judgement("a" if lead > 0 else "b", reason=told, raw=raw)


@dataclass(frozen=True)
class _OverTime:
    """Log fault of one side, share of its steps that are held, and its median change from frame to frame, 0 to 1."""

    fault: float
    held: float
    change: float


def _over_time(frames: Frames, fps: float) -> _OverTime:
    measured = measure(frames, fps)
    change = np.array([cv2.absdiff(*step).mean() for step in zip(frames[1:], frames[:-1], strict=True)]) / 255
    held = change < min(_HELD_LEVELS * _LEVEL, _HELD_SHARE * change.mean())
    error = (measured.flicker + _WARP_WEIGHT * measured.warp_error)[~held].mean()
    excuse = _MOTION_EXCUSE * math.log(change.mean() + _FLOOR)
    fault = math.log(error + _FLOOR) - excuse + _HELD_WEIGHT * float(held.mean())
    return _OverTime(fault, float(held.mean()), float(np.median(change)))


def _sharper(a: Frames, b: Frames) -> float:
    """Return by how much a is sharper than b, in log units beyond what may be content, at most +-``_SHARPNESS_MOST``.

    Only where the sides differ: what stands in both, text say, cannot hide that the rest is blurred.
    """
    ratios = [
        math.log((_gradient(one, where) + 1) / (_gradient(other, where) + 1))
        for one, other in zip(a, b, strict=True)
        if (where := _differing(one, other)).any()
    ]
    if not ratios:
        return 0.0
    lead = math.fsum(ratios) / len(ratios)
    return math.copysign(min(max(0.0, abs(lead) - _SHARPNESS_CONTENT), _SHARPNESS_MOST), lead)


def _differing(one: Frames, other: Frames) -> NDArray[np.bool_]:
    """Return where [H, W] two frames differ, without the rim: a gradient there would see across it."""
    where = (cv2.absdiff(one, other).max(axis=-1) > _DIFFERS_LEVELS).astype(np.uint8)
    return cv2.erode(where, np.ones((3, 3), np.uint8), borderValue=1).astype(bool)


def _gradient(frame: Frames, where: NDArray[np.bool_]) -> float:
    """Return the root mean square of the luma gradient of a frame [H, W, 3] at the places ``where``, in levels a px."""
    luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = (cv2.Sobel(luma, cv2.CV_32F, *order, ksize=1, scale=0.5) for order in ((1, 0), (0, 1)))
    return math.sqrt(float((across**2 + down**2)[where].mean(dtype=np.float64)))
