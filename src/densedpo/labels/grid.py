"""The segment grid: which frames a label speaks for, and which latent frames it reaches.

Stands between labelling (seconds) and training (latent frames). Frames belong to segments by timestamp; a tail shorter
than half a segment joins the one before it, so 121 frames at 24 fps are five segments and not six.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from densedpo.errors import ConfigError


@dataclass(frozen=True)
class SegmentGrid:
    """Equal segments of ``segment_s`` seconds over a clip of ``num_frames`` frames at ``fps``.

    Frame i covers the time from i / fps to (i + 1) / fps and belongs to segment floor(i / fps / segment_s). The last
    segment also takes a tail shorter than segment_s / 2.

    Raises:
        ConfigError: if a value is out of range, a segment is shorter than one frame, or the clip than one segment.
    """

    num_frames: int
    fps: float
    segment_s: float = 1.0

    def __post_init__(self) -> None:
        """Check the three numbers."""
        if self.num_frames < 1:
            raise ConfigError(f"num_frames must be at least 1, got {self.num_frames}")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"fps must be a positive number, got {self.fps}")
        if not (math.isfinite(self.segment_s) and self.segment_s > 0):
            raise ConfigError(f"segment_s must be a positive number of seconds, got {self.segment_s}")
        if self.segment_s * self.fps < 1 - 1e-9:
            raise ConfigError(
                f"segment_s {self.segment_s:g} is shorter than one frame at {self.fps:g} fps; "
                f"use at least {1 / self.fps:.3g} s"
            )
        if self.duration_s < self.segment_s * (1 - 1e-9):
            raise ConfigError(
                f"a clip of {self.num_frames} frames at {self.fps:g} fps lasts {self.duration_s:.2f} s, shorter than "
                f"one segment of {self.segment_s:g} s; use longer clips or a smaller segment_s"
            )

    @property
    def duration_s(self) -> float:
        """Length of the clip in seconds, the last frame's own duration included."""
        return self.num_frames / self.fps

    @cached_property
    def num_segments(self) -> int:
        """Number of segments: whole ones, plus one for a tail of at least half a segment in which a frame begins."""
        whole = math.floor(self.duration_s / self.segment_s + 1e-9)
        tail_s = self.duration_s - whole * self.segment_s
        return min(whole + (1 if tail_s >= self.segment_s / 2 - 1e-9 else 0), int(self._raw_segment[-1]) + 1)

    @cached_property
    def frame_segment(self) -> NDArray[np.int64]:
        """Segment of every frame, [num_frames]."""
        return np.minimum(self._raw_segment, self.num_segments - 1)

    @cached_property
    def _raw_segment(self) -> NDArray[np.int64]:
        # the small shift keeps a frame whose timestamp falls on a border by rounding in the later segment
        return np.floor(np.arange(self.num_frames) / self.fps / self.segment_s + 1e-9).astype(np.int64)

    def frames_of(self, segment: int) -> slice:
        """Return the frames of one segment as a slice."""
        assert 0 <= segment < self.num_segments
        inside = np.flatnonzero(self.frame_segment == segment)
        return slice(int(inside[0]), int(inside[-1]) + 1)

    def bounds_s(self, segment: int) -> tuple[float, float]:
        """Return start and end of one segment in seconds."""
        frames = self.frames_of(segment)
        return frames.start / self.fps, frames.stop / self.fps

    def latent_weights(self, temporal_stride: int = 4, causal: bool = True) -> NDArray[np.float64]:
        """Return the share of each latent frame that belongs to each segment, [segments, latent frames].

        Causal (the Wan class): latent 0 holds frame 0, latent k holds frames (k-1) s + 1 .. k s for stride s; otherwise
        latent k holds frames k s .. (k+1) s - 1. Every column sums to 1.

        Raises:
            ConfigError: if the frame count does not fit the stride (causal: s k + 1 frames).
        """
        if temporal_stride < 1:
            raise ConfigError(f"temporal_stride must be at least 1, got {temporal_stride}")
        frames = np.arange(self.num_frames)
        if causal:
            if (self.num_frames - 1) % temporal_stride:
                raise ConfigError(
                    f"{self.num_frames} frames do not fit a causal stride of {temporal_stride}: "
                    f"use {temporal_stride}k + 1 frames, for example {self._nearest(temporal_stride)}"
                )
            latent = (frames + temporal_stride - 1) // temporal_stride
        else:
            latent = frames // temporal_stride
        weights = np.zeros((self.num_segments, int(latent[-1]) + 1))
        np.add.at(weights, (self.frame_segment, latent), 1.0)
        shares: NDArray[np.float64] = weights / weights.sum(axis=0, keepdims=True)
        return shares

    def _nearest(self, stride: int) -> int:
        return (self.num_frames - 1) // stride * stride + 1

    def latent_labels(self, labels: ArrayLike, temporal_stride: int = 4) -> NDArray[np.float64]:
        """Spread segment labels [segments] in [-1, 1] over latent frames: the weighted sum of their segments' labels.

        The sign of the result is the preference, its magnitude the weight; opposite labels cancel where a latent frame
        straddles their border.
        """
        values = np.asarray(labels, dtype=np.float64)
        assert values.shape == (self.num_segments,), (values.shape, self.num_segments)
        spread: NDArray[np.float64] = values @ self.latent_weights(temporal_stride)
        return spread
