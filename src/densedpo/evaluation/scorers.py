"""Scorers: what turns one video and its prompt into named numbers.

A scorer is anything with this interface; the miniature world brings its ground-truth examiner. ``FrameScorer`` needs no
weights and works on any video.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from densedpo.config import ClipSettings
from densedpo.evaluation.video.meter import measure_frames
from densedpo.evaluation.video.summary import VERSION, summarise


@dataclass(frozen=True)
class ScoreInfo:
    """How a score is shown and read.

    ``primary`` marks the few, chosen before any evaluation, that a claim may rest on: p values are adjusted for their
    number. The other scores describe.
    """

    label: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    sentence: str
    is_motion: bool = False
    primary: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def primary_scores(infos: Mapping[str, ScoreInfo]) -> set[str]:
    """Return the primary scores: those marked so; where none is, all."""
    return {name for name, info in infos.items() if info.primary} or set(infos)


@runtime_checkable
class Scorer(Protocol):
    """Scores one video at a time; ``infos`` names every score it returns.

    ``version`` grows whenever a score of the same video becomes another number: stored scores are then made again.
    """

    name: str
    version: int
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
    """Scores that need no weights and work on any video: see docs/guides/metrics.md for each one's range and limits.

    Warping error comes first of those with a direction: it is the main quality unless the settings name another. A
    frozen clip has none of it, which is why no quality is read without motion beside it.
    """

    name = "frames"
    version = VERSION
    infos: ClassVar[dict[str, ScoreInfo]] = {
        "motion_px_s": ScoreInfo(
            "motion",
            "px/s",
            "neither",
            "Mean speed over the whole picture, the camera's motion included.",
            is_motion=True,
            primary=True,
        ),
        "warp_error": ScoreInfo(
            "warping error",
            "",
            "lower",
            "Colour change that motion does not explain; 0 for a frozen clip.",
            primary=True,
        ),
        "flicker": ScoreInfo("flicker", "", "lower", "Brightness change that motion does not explain.", primary=True),
        "sharpness": ScoreInfo("sharpness", "", "higher", "Brightness gradient per px; falls with blur.", primary=True),
        "forward_backward_px": ScoreInfo(
            "forward-backward gap", "px", "lower", "How far flow there and back misses where it started."
        ),
        "warp_coverage": ScoreInfo(
            "warping coverage", "", "higher", "Share of the picture whose motion there and back agrees."
        ),
        "object_motion_px_s": ScoreInfo(
            "object motion", "px/s", "neither", "Mean speed over the picture once the camera's motion is taken out."
        ),
        "camera_motion_px_s": ScoreInfo("camera motion", "px/s", "neither", "Mean speed of the camera's motion."),
        "top_motion_px_s": ScoreInfo("fastest motion", "px/s", "neither", "Mean speed of the fastest 5 %."),
        "moving_share": ScoreInfo("moving share", "", "neither", "Share of the picture that moves."),
        "motion_in_range": ScoreInfo(
            "motion in range",
            "",
            "higher",
            "Share of videos whose motion flow can follow; below 1, speeds are too low.",
        ),
        "out_of_range_share": ScoreInfo(
            "time out of range", "", "lower", "Share of the time in which motion is faster than flow can follow."
        ),
        "flow_acceleration_px_s2": ScoreInfo(
            "acceleration", "px/s²", "neither", "Mean change of velocity: low is smooth, 0 is frozen."
        ),
        "freeze_share": ScoreInfo(
            "frozen", "", "lower", "Share of the time in which nothing changes for half a second."
        ),
        "duplicate_share": ScoreInfo("repeated pictures", "", "lower", "Share of pictures equal to the one before."),
        "black_share": ScoreInfo("black pictures", "", "lower", "Share of pictures that are black."),
        "cuts": ScoreInfo("cuts", "", "lower", "Hard cuts and dissolves in a video."),
        "brightness": ScoreInfo("brightness", "", "neither", "Mean luma, 0 to 1."),
        "saturation": ScoreInfo("saturation", "", "neither", "Mean colour saturation, 0 to 1."),
        "colour_drift": ScoreInfo(
            "colour drift", "", "lower", "Change of the mean colour from the first quarter to the last."
        ),
        "brightness_drift": ScoreInfo(
            "brightness drift", "", "neither", "Change of brightness from the first quarter to the last."
        ),
        "saturation_drift": ScoreInfo(
            "saturation drift", "", "neither", "Change of saturation from the first quarter to the last."
        ),
        "sharpness_drift": ScoreInfo(
            "sharpness drift", "", "neither", "Change of sharpness from the first quarter to the last."
        ),
    }

    def check(self, prompt: str) -> None:
        """Accept every prompt."""

    def score(self, frames: NDArray[np.uint8], fps: float, prompt: str) -> dict[str, float]:
        """Return the scores of the whole clip; the prompt is not looked at."""
        del prompt
        duration_s = len(frames) / fps
        found = summarise(measure_frames(frames, fps), duration_s, ClipSettings().cut_threshold).scores
        return {name: found[name] for name in self.infos}
