"""The ground-truth examiner: measures every frame of any clip of the drawn world, not knowing which model made it.

Artifact: redraw each frame from the fitted pose with the *captioned* shape and colour and one size for the whole clip,
and take what is left over. A wrong shape or colour is therefore an artifact as well as a text fault. The leftover is
compared as full-resolution luma and half-resolution chroma, so video compression hardly counts, and is divided by the
square root of the object's area: faults sit along the outline, so the score can be bought neither by growing nor by
shrinking the object. 0 is perfect; about 1 is a frame whose object is missing.

Consistency looks at adjacent frames: size, colour, background level, teleports and freezes. Speed is measured apart
(see ``tracks``) and enters no quality score.

Shape letters: T frames, H and W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densedpo.errors import ConfigError, MediaError
from densedpo.miniworld import fit, scenes, tracks

Floats = NDArray[np.float64]

SCORES = ("artifact", "temporal_consistency", "dynamic_degree", "text_agreement")
ARTIFACT_FLOOR = 0.01
# What drawing on a grid, rounding and compression leave over at any size, in px of full contrast (mean of clean clips).
GRID_LEFTOVER_PX = 0.045
SHAPE_STRIDE = 4  # frames between those in which the other shapes are tried too
# What adjacent frames of a perfect clip may differ by (drawing on a pixel grid, compression) at no charge.
_AREA_SLACK, _COLOUR_SLACK, _GROUND_SLACK, _OUTLINE_SLACK = 0.10, 0.06, 0.01, 0.07
_PRESENCE = 0.35  # least contrast, as a share of the captioned colour's, of something that counts as the object


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
        chosen = np.arange(len(self.artifact))[frames or slice(None)]
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
    subject = _check(frames, caption)
    pixels = frames.astype(np.float64)
    ground = fit.fit_background(frames)
    colours = fit.object_colours(pixels, ground)
    masks = fit.soft_masks(pixels, ground, colours)
    spins = subject.motion == "spin"
    poses = _fit_shape(subject.shape, masks, fit.locate(masks), spins)
    found = _presence(subject, masks, poses.values, colours, ground)
    values = _steady(subject.shape, masks, poses.values, found, spins)
    turning = _turning(subject.shape, masks, values, found) if spins else np.zeros((len(frames), 0))
    track = np.concatenate([values[:, :2], turning], axis=1)  # [T, 2], and a third coordinate for a spin
    radius = poses.values[:, 2]
    return Examination(
        artifact=_artifact(subject, pixels, ground, values),
        consistency=_consistency(subject.shape, pixels, ground, colours, masks, values, track, found),
        speed_px_s=tracks.line_speeds(track) * fps,
        shape_share=_shape_share(subject.shape, masks, poses, found, spins),
        colour_share=_colour_share(subject.colour, colours, ground, values, found),
        radius_px=radius,
        centre_px=values[:, :2],
        found=found,
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


def _fit_shape(shape: str, masks: Floats, poses: Floats, spins: bool) -> fit.Poses:
    turns = spins and shape != "circle"
    start = fit.with_best_angles(shape, masks, poses) if turns else poses
    return fit.refine(shape, masks, start, (0, 1, 2, 3) if turns else (0, 1, 2))


def _at_centres(ground: Floats, poses: Floats) -> Floats:
    """Return the background's colour [T, 3] under each pose's centre."""
    last = scenes.SIZE_PX - 1
    column, row = np.rint(poses[:, :2]).astype(int).clip(0, last).T
    return ground[row, column]


def _presence(
    subject: scenes.Subject, masks: Floats, poses: Floats, colours: Floats, ground: Floats
) -> NDArray[np.bool_]:
    """Say in which frames [T] something of about the object's contrast fills the fitted place."""
    under = _at_centres(ground, poses)
    wanted = np.linalg.norm(np.array(scenes.COLOURS[subject.colour]) - under, axis=1)
    contrast = np.linalg.norm(colours - under, axis=1) / wanted
    crops, x, y, inside = fit.crop(masks, poses)
    covered = inside * fit.smooth_coverage(subject.shape, x, y, poses)
    filled = (crops * covered).sum(axis=(1, 2)) / np.maximum(np.square(covered).sum(axis=(1, 2)), 1.0)
    return (contrast > _PRESENCE) & (filled > 0.4)


def _steady(shape: str, masks: Floats, poses: Floats, found: NDArray[np.bool_], spins: bool) -> Floats:
    """Return poses [T, 4] of one size for the whole clip, interpolated where no object was found."""
    count = len(poses)
    seen = np.flatnonzero(found)
    if len(seen) == 0:
        middle = (scenes.SIZE_PX - 1) / 2
        return np.tile([middle, middle, fit.TYPICAL_RADIUS_PX, 0.0], (count, 1))
    steady = poses.copy()
    steady[:, 2] = np.median(poses[seen, 2])
    steady = fit.refine(shape, masks, steady, (0, 1, 3) if spins else (0, 1), iterations=3).values
    steady[:, 2] = np.median(poses[seen, 2])
    for column in (0, 1, 3):
        steady[:, column] = np.interp(np.arange(count), seen, steady[seen, column])
    return steady


def _turning(shape: str, masks: Floats, poses: Floats, found: NDArray[np.bool_]) -> Floats:
    """Return the distance [T, 1] the rim has travelled by turning, in px, taking the shortest way at each step.

    Angles that the picture hardly tells apart (a blob) do not count as turning.
    """
    symmetry = float(scenes.SYMMETRY_RAD[shape])
    if not np.isfinite(symmetry):
        return np.zeros((len(poses), 1))
    crops, x, y, inside = fit.crop(masks, poses)
    away = poses.copy()
    away[:, 3] += symmetry / 2
    drawn, turned = (inside * fit.smooth_coverage(shape, x, y, pose) for pose in (poses, away))
    gain = (np.square(crops - turned) - np.square(crops - drawn)).sum(axis=(1, 2))
    clear = found & (gain > 0.3 * np.square(drawn - turned).sum(axis=(1, 2)))
    turns = np.diff(poses[:, 3])
    turns = (turns + symmetry / 2) % symmetry - symmetry / 2
    known = clear[1:] & clear[:-1]
    if known.any():  # a fast turn may exceed half the symmetry at its peak: unwrap around the clip's usual turn
        usual = np.angle(np.exp(2j * np.pi * turns[known] / symmetry).mean()) * symmetry / (2 * np.pi)
        turns = usual + (turns - usual + symmetry / 2) % symmetry - symmetry / 2
    rim = np.where(known, turns, 0.0) * poses[0, 2]
    return np.concatenate([[0.0], np.cumsum(rim)])[:, None]


def _blurred_chroma(difference: Floats) -> tuple[Floats, Floats]:
    """Split RGB differences [T, H, W, 3] into luma [T, H, W] and half-resolution chroma [T, H/2, W/2, 2]."""
    split = fit.luma_chroma(difference)
    count, half = len(split), scenes.SIZE_PX // 2
    return split[..., 0], split[..., 1:].reshape(count, half, 2, half, 2, 2).mean(axis=(2, 4))


def _artifact(subject: scenes.Subject, pixels: Floats, ground: Floats, poses: Floats) -> Floats:
    line = np.tile(np.arange(scenes.SIZE_PX, dtype=np.float64), (len(pixels), 1))
    covered = fit.smooth_coverage(subject.shape, line, line, poses)[..., None]
    colour = np.array(scenes.COLOURS[subject.colour], dtype=np.float64)
    luma, chroma = _blurred_chroma(pixels - (ground + covered * (colour - ground)))
    left_over = np.square(luma).sum(axis=(1, 2)) + 4 * np.square(chroma).sum(axis=(1, 2, 3))
    contrast = np.square(fit.luma_chroma(colour - _at_centres(ground, poses))).sum(axis=1)
    size_px = np.pi * fit.TYPICAL_RADIUS_PX * poses[:, 2]  # sqrt(area), scaled to the area of a typical object
    return np.maximum(0.0, left_over / contrast - GRID_LEFTOVER_PX) / size_px


def _consistency(
    shape: str,
    pixels: Floats,
    ground: Floats,
    colours: Floats,
    masks: Floats,
    poses: Floats,
    track: Floats,
    found: NDArray[np.bool_],
) -> Floats:
    """Return exp(-faults) [T - 1], the faults of a step being free up to what drawing and compression cause."""
    crops, x, y, _ = fit.crop(masks, poses)
    reach = 2.1 * poses[:, 2, None, None]  # wherever any shape of this size can reach
    near = np.hypot((x - poses[:, :1])[:, None, :], (y - poses[:, 1:2])[:, :, None]) < reach
    area = np.maximum((crops * near).sum(axis=(1, 2)), 1.0)
    resized = np.maximum(0.0, np.abs(np.diff(np.log(area))) - _AREA_SLACK)
    tint = fit.luma_chroma(colours)
    contrast = max(float(np.median(np.linalg.norm(tint - fit.luma_chroma(_at_centres(ground, poses)), axis=1))), 30.0)
    recoloured = np.maximum(0.0, np.linalg.norm(np.diff(tint, axis=0), axis=1) / contrast - _COLOUR_SLACK)
    level = np.median(fit.luma_chroma(pixels - ground).reshape(len(pixels), -1, 3), axis=1)
    relit = np.maximum(0.0, np.linalg.norm(np.diff(level, axis=0), axis=1) / contrast - _GROUND_SLACK)
    outline = _outline_change(shape, crops, x, y, poses) if track.shape[1] == 2 else 0.0
    steps = tracks.step_lengths(track)
    # A disc that moves by d px changes its picture by about pi r d^2 in squared contrast.
    change = np.square(fit.luma_chroma(np.diff(pixels, axis=0))).sum(axis=(1, 2, 3)) / contrast**2
    frozen = tracks.freeze_share(steps, np.sqrt(change / (np.pi * poses[1:, 2])))
    both = found[1:] & found[:-1]
    faults = np.where(both, resized + recoloured + outline + tracks.jump_excess(steps) / 2, 1.0)
    return np.asarray(np.exp(-faults - 2 * relit - frozen))


def _outline_change(shape: str, crops: Floats, x: Floats, y: Floats, poses: Floats) -> Floats:
    """Return how much the deviation from the ideal outline changes [T - 1], as a share of the object.

    The deviation is blurred first, for it moves with the object by fractions of a pixel. Not for spinning objects,
    whose deviation turns with them.
    """
    deviation = crops - fit.smooth_coverage(shape, x, y, poses)
    near = np.hypot((x - poses[:, :1])[:, None, :], (y - poses[:, 1:2])[:, :, None]) < 2.1 * poses[:, 2, None, None]
    blurred = np.lib.stride_tricks.sliding_window_view(deviation * near, (3, 3), axis=(1, 2)).mean(axis=(3, 4))
    energy = np.square(np.diff(blurred, axis=0)).sum(axis=(1, 2)) / (np.pi * np.square(poses[1:, 2]))
    return np.maximum(0.0, np.sqrt(energy) - _OUTLINE_SLACK)


def _shape_share(shape: str, masks: Floats, poses: fit.Poses, found: NDArray[np.bool_], spins: bool) -> float:
    """Return the share of every fourth frame in which the captioned shape fits the mask better than any other."""
    chosen = slice(None, None, SHAPE_STRIDE)
    best = np.full(len(masks[chosen]), np.inf)
    for other in scenes.SHAPES:
        if other != shape:
            start = poses.values[chosen].copy()
            start[:, 3] = 0.0
            best = np.minimum(best, _fit_shape(other, masks[chosen], start, spins).error_px)
    return float((found[chosen] & (poses.error_px[chosen] <= best)).mean())


def _colour_share(colour: str, colours: Floats, ground: Floats, poses: Floats, found: NDArray[np.bool_]) -> float:
    """Return the share of frames whose object departs from the background in the captioned colour's direction."""
    under = _at_centres(ground, poses)
    palette = np.array(list(scenes.COLOURS.values()), dtype=np.float64)[:, None] - under
    seen = colours - under
    cosine = (palette * seen).sum(axis=2) / (np.linalg.norm(palette, axis=2) * np.linalg.norm(seen, axis=1) + 1e-9)
    return float((found & (cosine.argmax(axis=0) == list(scenes.COLOURS).index(colour))).mean())
