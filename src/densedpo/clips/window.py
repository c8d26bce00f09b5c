"""Which part of a file becomes a clip: windows inside a shot, frames by timestamp, the size that fills the picture.

Pure arithmetic between ``clips.cuts`` (shots) and ``clips.add`` (files); numpy only, the decoding child uses it too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.geometry import ClipGeometry


@dataclass(frozen=True)
class Window:
    """A stretch of a file: start in seconds from its first frame, and the number of frames to take at the clip rate."""

    start_s: float
    num_frames: int


def resample_times(timestamps_s: NDArray[np.float64], start_s: float, fps: float, num_frames: int) -> NDArray[np.int64]:
    """Return for each output time ``start_s + k / fps`` the index of the nearest frame, [num_frames].

    Args:
        timestamps_s: [T] rising; equal neighbours are allowed. A tie goes to the earlier frame.
        start_s: time of the first output frame.
        fps: output rate.
        num_frames: number of output frames.
    """
    wanted = start_s + np.arange(num_frames) / fps
    if len(timestamps_s) == 1:
        return np.zeros(num_frames, dtype=np.int64)
    after = np.clip(np.searchsorted(timestamps_s, wanted), 1, len(timestamps_s) - 1)
    nearer = wanted - timestamps_s[after - 1] > timestamps_s[after] - wanted + 1e-9
    return (after - 1 + nearer).astype(np.int64)


def shot_windows(
    start_s: float, stop_s: float, geometry: ClipGeometry, max_windows: int, segment_s: float
) -> list[Window]:
    """Return windows inside the shot [start_s, stop_s): full clips, evenly spread, never overlapping.

    The last sampling instant may lie on the end of the shot, where its last frame is held: 1.0 s at 8 fps are the nine
    instants 0 to 1.0 s. A shot shorter than a clip but at least ``segment_s`` long gives one shorter clip, with the
    largest frame count that fits the model's temporal stride; a shorter shot gives none.
    """
    length_s = stop_s - start_s
    if length_s < segment_s * (1 - 1e-6):
        return []
    instants = math.floor(length_s * geometry.fps + 1e-6) + 1
    if instants < geometry.num_frames:
        count = geometry.valid_frames(instants)
        return [Window(start_s, count)] if count / geometry.fps >= segment_s * (1 - 1e-6) else []
    number = max(1, min(max_windows, math.floor(length_s / geometry.duration_s + 1e-6)))
    gap_s = max(0.0, length_s / number - geometry.duration_s)
    return [Window(start_s + gap_s / 2 + k * (geometry.duration_s + gap_s), geometry.num_frames) for k in range(number)]


def cover_size(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int]:
    """Return the (height, width) to which a picture is resized so that it just covers the target, aspect kept."""
    scale = max(target_height / height, target_width / width)
    return max(target_height, round(height * scale)), max(target_width, round(width * scale))


def centre_crop(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return the middle ``height`` x ``width`` of an image [H, W, 3]."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    assert top >= 0 and left >= 0, (image.shape, height, width)
    return image[top : top + height, left : left + width]
