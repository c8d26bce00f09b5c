"""What a clip is kept or left out by: its measures, the limits on them, and which limits it breaks.

Pure, but for ``measure_clip``, which reads the clip's frames. Used by ``clips.filter``; measures are stored apart from
decisions, so that other limits never need the frames again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.camera import motion
from densedpo.clips.cuts import cut_strength
from densedpo.clips.decode import read_video
from densedpo.clips.window import cover_size
from densedpo.config import FilterSettings
from densedpo.store.tables import Row

VERSION = 2  # of what is measured from frames
DEFAULT_MOTION_SHARE = 0.02  # of the clip's short side, a second
_THUMBNAIL_PX = 48
_ROUNDING = 1e-6

Measures = Mapping[str, float]


@dataclass(frozen=True)
class Limit:
    """A criterion: values of ``measure`` below ``low`` or above ``high`` leave a clip out; None is no limit."""

    criterion: str
    measure: str
    title: str
    low: float | None = None
    high: float | None = None

    def breaks(self, value: float) -> str | None:
        """Return in words how ``value`` breaks the limit, or None."""
        if self.low is not None and value < self.low - _ROUNDING:
            return f"{self.measure} {value:.4g} < {self.low:.4g}"
        if self.high is not None and value > self.high + _ROUNDING:
            return f"{self.measure} {value:.4g} > {self.high:.4g}"
        return None


def limits_of(settings: FilterSettings, height: int, width: int) -> list[Limit]:
    """Return the limits for clips of ``height`` x ``width`` px."""
    slowest = settings.min_motion_px_s
    if slowest is None:
        slowest = DEFAULT_MOTION_SHARE * min(height, width)
    return [
        Limit("resolution", "upscale", "Enlargement of the source, times", high=settings.max_upscale),
        Limit("duration", "duration_s", "Duration, s", low=settings.min_duration_s or None),
        Limit("aspect", "crop_share", "Share of the picture cut off", high=_below_one(settings.max_crop_share)),
        Limit("cuts", "cut_strength", "Strongest cut or dissolve", high=_below_one(settings.max_cut_strength)),
        Limit(
            "motion", "foreground_px_s", "Foreground motion, px/s", low=slowest or None, high=settings.max_motion_px_s
        ),
        Limit("camera", "camera_px_s", "Camera motion, px/s", high=settings.max_camera_px_s),
    ]


def broken(measures: Measures, limits: list[Limit]) -> dict[str, str]:
    """Return the criteria that a clip breaks, each with how."""
    found = {limit.criterion: limit.breaks(measures[limit.measure]) for limit in limits}
    return {criterion: how for criterion, how in found.items() if how is not None}


def shape_measures(row: Row) -> dict[str, float]:
    """Return what a clip's row says: enlargement, duration in s, and the share of the picture that was cut off.

    Enlargement is by how much the source had to grow to cover the clip; below 1 it was made smaller.
    """
    source, clip = (row["source_height"], row["source_width"]), (row["height"], row["width"])
    covering = cover_size(*source, *clip)
    ratios = (source[1] / source[0], clip[1] / clip[0])
    return {
        "upscale": max(covering[0] / source[0], covering[1] / source[1]),
        "duration_s": float(row["duration_s"]),
        "crop_share": 1 - min(ratios) / max(ratios),
    }


def measure_clip(file: Path) -> dict[str, float]:
    """Return what the frames of a clip say: strongest cut (0 to 1), speeds in px/s as means over time, agreement.

    Raises:
        MediaError: if the file cannot be read.
    """
    video = read_video(file)
    found = motion(video.frames, video.fps)
    speeds: dict[str, NDArray[np.float64]] = vars(found)
    return {
        "cut_strength": cut_strength(_thumbnails(video.frames), 1 / video.fps),
        **{name: float(values.mean()) if len(values) else 0.0 for name, values in speeds.items()},
    }


def shown(limits: list[Limit]) -> dict[str, Any]:
    """Return limits as plain values: those that are set, by criterion."""
    return {
        limit.criterion: {"measure": limit.measure, "low": limit.low, "high": limit.high}
        for limit in limits
        if (limit.low, limit.high) != (None, None)
    }


def _below_one(share: float) -> float | None:
    return share if share < 1 else None


def _thumbnails(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frames.shape[1:3]
    scale = min(1.0, _THUMBNAIL_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]).astype(np.uint8)
