"""One pass over the frames of a video: flow once for each pair of neighbours, numbers of every picture and every step.

frames, one at a time -> ``VideoMeter`` -> ``VideoNumbers`` -> ``evaluation.video.summary`` -> scores

Only the last picture is kept, and 4 kB of small pictures a frame for finding cuts: memory does not grow with the film.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.flow import flow_size, grey, resized
from densedpo.evaluation.video.between import Between, Follower
from densedpo.evaluation.video.picture import PICTURE_NAMES, picture
from densedpo.evaluation.video.step import STEP_NAMES, UNEXPLAINED_LIMIT, Sight, step

Floats = NDArray[np.float64]

VIEW_SHORT_SIDE_PX = 512  # larger pictures are looked at in this size; speeds stay in px of the file
FLOW_SHORT_SIDE_PX = 192  # at 256 a thousand clips take twice as long and speeds are no better
_THUMBNAIL_PX = 48


@dataclass(frozen=True)
class VideoNumbers:
    """Everything that was read off one video of T frames.

    Attributes:
        times_s: [T] when each frame is shown, rising, the first at 0.
        pictures: by name (``PICTURE_NAMES``), [T].
        steps: by name (``STEP_NAMES``), [T-1].
        thumbnails: [T, h, w, 3] small 8-bit RGB frames.
    """

    times_s: Floats
    pictures: dict[str, Floats]
    steps: dict[str, Floats]
    thumbnails: NDArray[np.uint8]

    @property
    def step_s(self) -> float:
        """Median time between frames in seconds; a second for a single frame."""
        return float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else 1.0

    @property
    def duration_s(self) -> float:
        """Length in seconds, the last frame's own duration taken as the median step."""
        return float(self.times_s[-1]) + self.step_s


def view_size(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) at which a picture of this size is looked at."""
    scale = min(1.0, VIEW_SHORT_SIDE_PX / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


class VideoMeter:
    """Takes frames one at a time, in order of time."""

    def __init__(self, height: int, width: int) -> None:
        """Start on a video of ``height`` x ``width`` px, whose pixels speeds are given in."""
        self._size = flow_size(*view_size(height, width), FLOW_SHORT_SIDE_PX)
        self._view = view_size(height, width)[::-1]
        self._per_px = np.array([width / self._size[0], height / self._size[1]], dtype=np.float32)
        small = min(1.0, _THUMBNAIL_PX / max(height, width))
        self._thumbnail = max(1, round(width * small)), max(1, round(height * small))
        self._follower = Follower()
        self._before: Sight | None = None
        self._last: Between | None = None
        self._times_s: list[float] = []
        self._pictures: list[tuple[float, ...]] = []
        self._steps: list[tuple[float, ...]] = []
        self._thumbnails: list[NDArray[np.uint8]] = []

    def add(self, image: NDArray[np.uint8], time_s: float) -> None:
        """Take the next frame [H, W, 3], 8-bit RGB; one that is shown no later than the one before is left out."""
        if self._times_s and time_s <= self._times_s[-1]:
            return
        viewed = image if image.shape[1::-1] == self._view else resized(image, self._view)
        colour = resized(viewed, self._size)
        after = Sight(colour, grey(colour))
        if self._before is not None:
            now = self._follower.between(self._before.luma, after.luma)
            seconds = time_s - self._times_s[-1], self._times_s[-1] - self._times_s[-2] if self._last else 0.0
            self._steps.append(_values(step(self._before, after, now, self._last, seconds, self._per_px)))
            # what flow could not explain, a cut above all, says nothing about the places of the next step
            self._last = now if now.unexplained <= UNEXPLAINED_LIMIT else None
        self._pictures.append(_values(picture(viewed)))
        self._thumbnails.append(resized(viewed, self._thumbnail))
        self._times_s.append(time_s)
        self._before = after

    def numbers(self) -> VideoNumbers:
        """Return what was read off the frames so far, at least one."""
        assert self._times_s, "no frame yet"
        times = np.array(self._times_s)
        return VideoNumbers(
            times_s=times - times[0],
            pictures=_columns(self._pictures, PICTURE_NAMES),
            steps=_columns(self._steps, STEP_NAMES),
            thumbnails=np.stack(self._thumbnails),
        )


def measure_frames(frames: NDArray[np.uint8], fps: float) -> VideoNumbers:
    """Return the numbers of ``frames`` [T, H, W, 3], 8-bit RGB, shown at ``fps``."""
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3, (frames.dtype, frames.shape)
    meter = VideoMeter(*frames.shape[1:3])
    for index, image in enumerate(frames):
        meter.add(image, index / fps)
    return meter.numbers()


def _values(numbers: object) -> tuple[float, ...]:
    return tuple(vars(numbers).values())


def _columns(rows: list[tuple[float, ...]], names: tuple[str, ...]) -> dict[str, Floats]:
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    return dict(zip(names, table.T, strict=True))
