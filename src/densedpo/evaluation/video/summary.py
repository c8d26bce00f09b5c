"""From the numbers of every picture and step to the scores of a video, and to the same scores of each segment.

Means of steps are weighted by the time they take, so a film at an uneven rate, or with repeated pictures, has the speed
that is seen. Steps across a cut or inside a dissolve are no motion and count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.cuts import find_shots
from densedpo.evaluation.video.meter import VideoNumbers
from densedpo.evaluation.video.step import COVERAGE_LIMIT, UNEXPLAINED_LIMIT
from densedpo.labels.grid import SegmentGrid

Floats = NDArray[np.float64]
Chosen = NDArray[np.bool_]
Scores = dict[str, float]

VERSION = 4  # of the numbers of a video; stored scores of another version are made again
OUT_OF_RANGE_TOLERANCE = 0.05
FREEZE_S = 0.5
_ENDS = 0.25  # of the video: drift is from its first quarter to its last
_MEANS = (
    "motion_px_s", "top_motion_px_s", "object_motion_px_s", "camera_motion_px_s", "moving_share",
    "flow_acceleration_px_s2", "warp_error", "warp_coverage", "forward_backward_px", "flicker",
)  # fmt: skip
_EMPTY = {"warp_coverage": 1.0}
ORDER = (
    "start_s", "end_s", *_MEANS, "out_of_range_share", "motion_in_range", "freeze_share", "duplicate_share",
    "black_share", "cuts", "sharpness", "brightness", "saturation", "brightness_drift", "saturation_drift",
    "sharpness_drift", "colour_drift",
)  # fmt: skip


@dataclass(frozen=True)
class VideoScores:
    """Scores of one video and of its segments, by name; see docs/guides/metrics.md.

    A segment has ``start_s`` and ``end_s`` too, and its drift is from the first segment to it.
    """

    scores: Scores
    segments: list[Scores]


def summarise(numbers: VideoNumbers, segment_s: float, cut_threshold: float) -> VideoScores:
    """Return the scores of a video and of its segments of ``segment_s`` seconds.

    Args:
        numbers: what ``VideoMeter`` read off it.
        segment_s: length of a segment; a shorter video is one segment.
        cut_threshold: as ``find_shots`` takes it.
    """
    times = numbers.times_s
    seconds = np.diff(times)
    shots = find_shots(numbers.thumbnails, numbers.step_s, cut_threshold)
    shot = np.full(len(times), -1)
    for index, (start, stop) in enumerate(shots):
        shot[start:stop] = index
    moves = (shot[:-1] == shot[1:]) & (shot[1:] >= 0)
    begins = np.zeros(len(times), dtype=np.bool_)
    begins[[start for start, _ in shots[1:]]] = True
    video = _Video(numbers, seconds, moves, _frozen(numbers.steps["still"] > 0, seconds), begins)
    ends_s = times[-1] * _ENDS, times[-1] * (1 - _ENDS)
    whole = video.scores(np.ones(len(times), dtype=np.bool_)) | video.drift(times <= ends_s[0], times >= ends_s[1])
    segment = _segments(numbers, segment_s)
    parts = [segment == index for index in range(int(segment[-1]) + 1)]
    borders_s = [*(float(times[part][0]) for part in parts), numbers.duration_s]
    return VideoScores(
        whole,
        [
            {"start_s": start_s, "end_s": end_s} | video.scores(part) | video.drift(parts[0], part)
            for part, start_s, end_s in zip(parts, borders_s[:-1], borders_s[1:], strict=True)
        ],
    )


@dataclass(frozen=True)
class _Video:
    """Numbers of a video; by step its duration, whether it is motion and no cut, and frozen; frames after a cut."""

    numbers: VideoNumbers
    seconds: Floats
    moves: Chosen
    frozen: Chosen
    begins: Chosen

    def scores(self, frames: Chosen) -> Scores:
        """Return the scores of ``frames`` and of the steps that start at them."""
        steps, pictures = self.numbers.steps, self.numbers.pictures
        here = frames[:-1]
        times = self.seconds * (here & self.moves)
        found = {name: _mean(steps[name], times, _EMPTY.get(name, 0.0)) for name in _MEANS}
        lost = (steps["unexplained"] > UNEXPLAINED_LIMIT) | (steps["warp_coverage"] < COVERAGE_LIMIT)
        lost_share = _mean(lost.astype(float), times, float(here.any()))
        return found | {
            "out_of_range_share": lost_share,
            "motion_in_range": float(lost_share <= OUT_OF_RANGE_TOLERANCE),
            "freeze_share": _mean(self.frozen.astype(float), self.seconds * here, float(not len(self.seconds))),
            "duplicate_share": _mean(steps["duplicate"], here.astype(float), 0.0),
            "black_share": float(pictures["black"][frames].mean()),
            "cuts": float(self.begins[frames].sum()),
            "sharpness": float(pictures["sharpness"][frames].mean()),
            "brightness": float(pictures["brightness"][frames].mean()),
            "saturation": float(pictures["saturation"][frames].mean()),
        }

    def drift(self, first: Chosen, last: Chosen) -> Scores:
        """Return how light and colour change from the frames ``first`` to the frames ``last``."""
        change = {
            name: float(values[last].mean() - values[first].mean()) for name, values in self.numbers.pictures.items()
        }
        return {
            "brightness_drift": change["brightness"],
            "saturation_drift": change["saturation"],
            "sharpness_drift": change["sharpness"],
            "colour_drift": float(np.linalg.norm([change[name] for name in ("red", "green", "blue")]) / np.sqrt(3)),
        }


def _mean(values: Floats, weights: Floats, empty: float) -> float:
    total = weights.sum()
    if total <= 0:
        return empty
    return float(np.clip(values @ weights / total, values.min(), values.max()))  # rounding: a share stays below 1


def _frozen(still: Chosen, seconds: Floats) -> Chosen:
    """Return the steps in runs of ``still`` ones that last ``FREEZE_S``, or as long as the video if that is shorter."""
    frozen = np.zeros(len(still), dtype=np.bool_)
    borders = np.flatnonzero(np.diff(np.concatenate([[False], still, [False]]).astype(np.int8)))
    least_s = min(FREEZE_S, float(seconds.sum())) - 1e-9
    for start, stop in borders.reshape(-1, 2):
        frozen[start:stop] = seconds[start:stop].sum() >= least_s
    return frozen


def _segments(numbers: VideoNumbers, segment_s: float) -> NDArray[np.int64]:
    """Return the segment of every frame by its time; the rule for the tail is ``SegmentGrid``'s."""
    times, duration_s = numbers.times_s, numbers.duration_s
    if duration_s < segment_s or segment_s * len(times) < duration_s:
        return np.zeros(len(times), dtype=np.int64)
    count = SegmentGrid(len(times), len(times) / duration_s, segment_s).num_segments
    segment = np.minimum(np.floor(times / segment_s + 1e-9).astype(np.int64), count - 1)
    # at an uneven rate a segment may hold no frame at all: those after it move up
    return np.unique(segment, return_inverse=True)[1]
