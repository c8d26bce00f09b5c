"""A clip as the examiner sees it: background, object colours, masks and the captioned shape's pose in every frame.

Everything the scores need, measured once (``look``) and read by ``quality`` and ``tracks``.

Shape letters: T frames, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densedpo.miniworld import fit, scenes

Floats = NDArray[np.float64]

_PRESENCE = 0.35  # least contrast, as a share of the captioned colour's, of something that counts as the object
_FILLED = 0.4  # least share of the fitted shape that the object fills


@dataclass(frozen=True)
class Fitted:
    """What was measured on one clip.

    Attributes:
        subject: what the caption names.
        pixels: [T, H, W, 3], the frames in levels.
        ground: [H, W, 3], the static background.
        colours: [T, 3], the object's colour, whatever it is.
        masks: [T, H, W], the object's share of each pixel.
        free: poses with a size of their own in each frame.
        poses: [T, 4] as (x, y, radius, angle), of one size for the clip, interpolated where nothing was found.
        found: [T], whether something like the object was seen.
    """

    subject: scenes.Subject
    pixels: Floats
    ground: Floats
    colours: Floats
    masks: Floats
    free: fit.Poses
    poses: Floats
    found: NDArray[np.bool_]

    @property
    def spins(self) -> bool:
        """Say whether the caption names a spinning object, whose angle is fitted too."""
        return self.subject.motion == "spin"

    @property
    def under(self) -> Floats:
        """Return the background's colour [T, 3] under the object's centre."""
        return at_centres(self.ground, self.poses)


def look(frames: NDArray[np.uint8], subject: scenes.Subject) -> Fitted:
    """Measure frames [T, H, W, 3] against the world's rules and the captioned ``subject``."""
    pixels = frames.astype(np.float64)
    ground = fit.fit_background(frames)
    colours = fit.object_colours(pixels, ground)
    masks = fit.soft_masks(pixels, ground, colours)
    spins = subject.motion == "spin"
    free = fit.fit_shape(subject.shape, masks, fit.locate(masks), turns=spins)
    found = _presence(subject, masks, free.values, colours, ground)
    poses = _steady(subject.shape, masks, free.values, found, spins)
    return Fitted(subject, pixels, ground, colours, masks, free, poses, found)


def at_centres(ground: Floats, poses: Floats) -> Floats:
    """Return the colour [T, 3] of the background [H, W, 3] under each pose's centre."""
    column, row = np.rint(poses[:, :2]).astype(int).clip(0, scenes.SIZE_PX - 1).T
    return np.asarray(ground[row, column])


def _presence(
    subject: scenes.Subject, masks: Floats, poses: Floats, colours: Floats, ground: Floats
) -> NDArray[np.bool_]:
    """Say in which frames [T] something of about the object's contrast fills the fitted place."""
    under = at_centres(ground, poses)
    wanted = np.linalg.norm(np.array(scenes.COLOURS[subject.colour]) - under, axis=1)
    contrast = np.linalg.norm(colours - under, axis=1) / wanted
    crops, x, y, inside = fit.crop(masks, poses)
    covered = inside * fit.smooth_coverage(subject.shape, x, y, poses)
    filled = (crops * covered).sum(axis=(1, 2)) / np.maximum(np.square(covered).sum(axis=(1, 2)), 1.0)
    return np.asarray((contrast > _PRESENCE) & (filled > _FILLED))


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
    for column in (0, 1, 3):
        steady[:, column] = np.interp(np.arange(count), seen, steady[seen, column])
    return steady


def rim_travel(clip: Fitted) -> Floats:
    """Return the distance [T, 1] that the rim has travelled by turning, in px, taking the shortest way at each step.

    Angles that the picture hardly tells apart (a blob) do not count as turning.
    """
    symmetry = float(scenes.SYMMETRY_RAD[clip.subject.shape])
    if not np.isfinite(symmetry):
        return np.zeros((len(clip.poses), 1))
    shape, poses = clip.subject.shape, clip.poses
    crops, x, y, inside = fit.crop(clip.masks, poses)
    away = poses.copy()
    away[:, 3] += symmetry / 2
    drawn, turned = (inside * fit.smooth_coverage(shape, x, y, pose) for pose in (poses, away))
    gain = (np.square(crops - turned) - np.square(crops - drawn)).sum(axis=(1, 2))
    clear = clip.found & (gain > 0.3 * np.square(drawn - turned).sum(axis=(1, 2)))
    turns = np.diff(poses[:, 3])
    turns = (turns + symmetry / 2) % symmetry - symmetry / 2
    known = clear[1:] & clear[:-1]
    if known.any():  # a fast turn may exceed half the symmetry at its peak: unwrap around the clip's usual turn
        usual = float(np.angle(np.exp(2j * np.pi * turns[known] / symmetry).mean())) * symmetry / (2 * np.pi)
        turns = usual + (turns - usual + symmetry / 2) % symmetry - symmetry / 2
    rim = np.where(known, turns, 0.0) * poses[0, 2]
    return np.concatenate([[0.0], np.cumsum(rim)])[:, None]
