"""The ground-truth examiner: measures every frame of any clip of the drawn world, not knowing which model made it.

    frames + caption -> fitted.look (background, colours, masks, poses) -> quality (artifact, consistency, text)
                                                                        -> tracks (speed)

Quality and speed never meet: ``badness``, which simulated annotators go by, holds no trace of motion.

Shape letters: T frames, H and W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densedpo.errors import ConfigError, MediaError
from densedpo.miniworld import quality, scenes, tracks
from densedpo.miniworld.fitted import look, rim_travel

Floats = NDArray[np.float64]

SCORES = ("artifact", "temporal_consistency", "dynamic_degree", "text_agreement")
ARTIFACT_FLOOR = 0.01  # keeps the logarithm of perfect clips finite; several times a clean clip's artifact


@dataclass(frozen=True)
class Examination:
    """Everything measured on one clip.

    Attributes:
        artifact: [T], 0 perfect, about 1 where the captioned object is missing.
        consistency: [T - 1] in [0, 1] for frames t and t + 1, 1 perfect.
        speed_px_s: [T - 1], speed of the object (and of its rim, where the caption says it spins).
        shape_share: share of examined frames in which the captioned shape fits best, in [0, 1].
        colour_share: share of frames whose object is closest to the captioned colour, in [0, 1].
        radius_px: [T], radius of the disc of the object's area.
        centre_px: [T, 2] as (x, y), interpolated where the object is missing.
        found: [T], whether an object was seen.
    """

    artifact: Floats
    consistency: Floats
    speed_px_s: Floats
    shape_share: float
    colour_share: float
    radius_px: Floats
    centre_px: Floats
    found: NDArray[np.bool_]

    @property
    def text(self) -> dict[str, float]:
        """Return the parts of text agreement, each in [0, 1]; the motion kind is not judged."""
        return {"shape": self.shape_share, "colour": self.colour_share}

    def scores(self) -> dict[str, float]:
        """Return the clip's four scores: artifact (lower is better), the others higher; dynamic degree in px/s."""
        return {
            "artifact": float(self.artifact.mean()),
            "temporal_consistency": float(self.consistency.mean()),
            "dynamic_degree": float(self.speed_px_s.mean()),
            "text_agreement": (self.shape_share + self.colour_share) / 2,
        }

    def badness(self, frames: slice | None = None) -> float:
        """Return log(mean artifact + floor) + 2 mean(1 - consistency) over ``frames``: quality alone, never motion.

        A step between two frames belongs to the later one, so the segments of a clip count each step once.
        """
        chosen = np.arange(len(self.artifact))[slice(None) if frames is None else frames]
        assert len(chosen) > 0
        steps = chosen[chosen > 0] - 1
        broken = float((1 - self.consistency[steps]).mean()) if len(steps) else 0.0
        return math.log(float(self.artifact[chosen].mean()) + ARTIFACT_FLOOR) + 2 * broken


def examine(frames: NDArray[np.uint8], caption: str, fps: float = scenes.FPS) -> Examination:
    """Measure one clip.

    Args:
        frames: [T, 32, 32, 3], 8-bit RGB, T >= 2.
        caption: a caption of this world, such as "a red square drifting".
        fps: frames a second.

    Raises:
        ConfigError: the caption is not one of this world's.
        MediaError: the frames do not have this world's size.
    """
    clip = look(frames, _check(frames, caption))
    way = clip.poses[:, :2]
    track = np.concatenate([way, rim_travel(clip)], axis=1) if clip.spins else way
    return Examination(
        artifact=quality.artifact(clip),
        consistency=quality.consistency(clip, track),
        speed_px_s=tracks.line_speeds(track) * fps,
        shape_share=quality.shape_share(clip),
        colour_share=quality.colour_share(clip),
        radius_px=clip.free.values[:, 2],
        centre_px=way,
        found=clip.found,
    )


def _check(frames: NDArray[np.uint8], caption: str) -> scenes.Subject:
    subject = scenes.parse_caption(caption)
    if subject is None:
        raise ConfigError(
            f"caption {caption!r} is not one of the drawn world's: name a colour, a shape and a motion, "
            "such as 'a red square drifting'"
        )
    size = scenes.SIZE_PX
    if frames.ndim != 4 or frames.shape[1:] != (size, size, 3) or len(frames) < 2 or frames.dtype != np.uint8:
        raise MediaError(
            f"clip of shape {frames.shape} and type {frames.dtype} is not of the drawn world: "
            f"give at least 2 frames of [{size}, {size}, 3] as 8-bit RGB"
        )
    return subject
