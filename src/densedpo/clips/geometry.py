"""The shape of a clip that a model takes: frame rate, frame count, size and temporal stride.

Stands between a model family, which dictates the numbers, and ``clips.add``, which brings files into them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from densedpo.errors import ConfigError


@dataclass(frozen=True)
class ClipGeometry:
    """Frames per second, frame count, height and width in pixels, and how latent frames group the frames.

    ``frame_step``: frames by which valid counts differ, where that is a multiple of ``temporal_stride``.

    Raises:
        ConfigError: if a number is out of range, or ``num_frames`` does not fit the stride.
    """

    fps: float
    num_frames: int
    height: int
    width: int
    temporal_stride: int
    causal: bool = True
    frame_step: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"fps must be a positive number, got {self.fps}")
        for name in ("num_frames", "height", "width", "temporal_stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self._step < 1 or self._step % self.temporal_stride:
            raise ConfigError(
                f"frame_step must be a multiple of {self.temporal_stride}, at least one, got {self.frame_step}"
            )
        if self.valid_frames(self.num_frames) != self.num_frames:
            form = f"{self._step}k + 1" if self.causal else f"{self._step}k"
            raise ConfigError(f"num_frames must be of the form {form}, got {self.num_frames}")

    @property
    def duration_s(self) -> float:
        """Length of a full clip in seconds, the last frame's own duration included."""
        return self.num_frames / self.fps

    def valid_frames(self, available_frames: int) -> int:
        """Return the largest frame count up to ``available_frames`` that fits the stride, or 0 if none does.

        Causal: s k + 1 for step s; otherwise s k. Never above ``num_frames``.
        """
        count = min(available_frames, self.num_frames)
        extra = 1 if self.causal else 0
        return max((count - extra) // self._step * self._step + extra, 0) if count > 0 else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are set as a JSON-able dictionary, for ids and rows."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def _step(self) -> int:
        return self.temporal_stride if self.frame_step is None else self.frame_step
