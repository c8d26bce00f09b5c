"""Scorers: what turns one video and its prompt into named numbers.

A scorer is anything with this interface; the miniature world brings its ground-truth examiner. ``FrameScorer`` needs no
weights and works on any video.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.measure import measure


@dataclass(frozen=True)
class ScoreInfo:
    """How a score is shown and read."""

    label: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    sentence: str
    is_motion: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@runtime_checkable
class Scorer(Protocol):
    """Scores one video at a time; ``infos`` names every score it returns."""

    name: str
    infos: ClassVar[dict[str, ScoreInfo]]

    def check(self, prompt: str) -> None:
        """Refuse a prompt whose videos cannot be scored; called for every prompt before anything is sampled.

        Raises:
            ConfigError: naming the prompt and what is expected.
        """
        ...

    def score(self, frames: NDArray[np.uint8], fps: float, prompt: str) -> dict[str, float]:
        """Return one finite number a score for frames [T, H, W, 3]."""
        ...


class FrameScorer:
    """Measures that need no weights: motion strength beside sharpness and two kinds of instability."""

    name = "frames"
    infos: ClassVar[dict[str, ScoreInfo]] = {
        "motion_px_s": ScoreInfo(
            "motion strength", "px/s", "neither", "Speed of the fastest 5 % of the picture by optical flow.", True
        ),
        "sharpness": ScoreInfo("sharpness", "", "higher", "Mean brightness gradient; falls with blur."),
        "warp_error": ScoreInfo("warping error", "", "lower", "Colour change that motion does not explain."),
        "flicker": ScoreInfo("flicker", "", "lower", "Brightness change that motion does not explain."),
    }

    def check(self, prompt: str) -> None:
        """Accept every prompt."""

    def score(self, frames: NDArray[np.uint8], fps: float, prompt: str) -> dict[str, float]:
        """Return the means of the frame measures; the prompt is not looked at."""
        del prompt
        found = measure(frames, fps)
        return {name: float(np.mean(getattr(found, name))) for name in self.infos}
