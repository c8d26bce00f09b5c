"""The examiner's scores of quality and text, from a fitted clip; none of them knows how fast the object is.

Artifact: redraw each frame with the *captioned* shape and colour and one size for the whole clip, and take what is left
over. A wrong shape or colour is therefore an artifact as well as a text fault. The leftover is compared as
full-resolution luma and half-resolution chroma, so video compression hardly counts, and is divided by the square root
of the object's area: faults sit along the outline, so the score can be bought neither by growing nor by shrinking.

Consistency: exp(-faults) of adjacent frames, where faults are changes of size, colour, outline and background level,
teleports and freezes, each free of charge up to what drawing on a pixel grid and compression cause.

Shape letters: T frames, H and W pixels, K pixels across a crop.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from densedpo.miniworld import fit, scenes, tracks
from densedpo.miniworld.fitted import Fitted

Floats = NDArray[np.float64]

# What drawing on a grid, rounding and compression leave over at any size, in px of full contrast; chosen on clean clips
# so that their artifact does not depend on size.
GRID_LEFTOVER_PX = 0.07
SHAPE_STRIDE = 4  # frames between those in which the other shapes are tried too
_AREA_SLACK, _COLOUR_SLACK, _OUTLINE_SLACK, _LEVEL_SLACK = 0.10, 0.06, 0.07, 0.01
_LEAST_CONTRAST = 30.0  # levels
_REACH = 2.1  # how far, in radii, any shape of a size can reach, and a little more


def artifact(clip: Fitted) -> Floats:
    """Return the squared leftover [T] in the object's contrast: 0 perfect, about 1 where the object is missing.

    leftover / (contrast^2 sqrt(area) sqrt(typical area)), both areas in px.
    """
    line = np.tile(np.arange(scenes.SIZE_PX, dtype=np.float64), (len(clip.pixels), 1))
    covered = fit.smooth_coverage(clip.subject.shape, line, line, clip.poses)[..., None]
    colour = np.array(scenes.COLOURS[clip.subject.colour], dtype=np.float64)
    difference = fit.luma_chroma(clip.pixels - (clip.ground + covered * (colour - clip.ground)))
    half = scenes.SIZE_PX // 2
    chroma = difference[..., 1:].reshape(len(difference), half, 2, half, 2, 2).mean(axis=(2, 4))
    left_over = np.square(difference[..., 0]).sum(axis=(1, 2)) + 4 * np.square(chroma).sum(axis=(1, 2, 3))
    contrast = np.square(fit.luma_chroma(colour - clip.under)).sum(axis=1)
    size_px = np.pi * fit.TYPICAL_RADIUS_PX * clip.poses[:, 2]
    return np.asarray(np.maximum(0.0, left_over / contrast - GRID_LEFTOVER_PX) / size_px)


def consistency(clip: Fitted, track: Floats) -> Floats:
    """Return in [0, 1] how well each frame follows from the one before [T - 1].

    Args:
        clip: the fitted clip.
        track: [T, D], the object's way in px (for a spin with the rim's way as a third coordinate).
    """
    crops, x, y, _ = fit.crop(clip.masks, clip.poses)
    away = np.hypot((x - clip.poses[:, :1])[:, None, :], (y - clip.poses[:, 1:2])[:, :, None])
    near = away < _REACH * clip.poses[:, 2, None, None]
    area = np.maximum((crops * near).sum(axis=(1, 2)), 1.0)
    resized = _beyond(np.abs(np.diff(np.log(area))), _AREA_SLACK)
    tint = fit.luma_chroma(clip.colours)
    contrast = max(_LEAST_CONTRAST, float(np.median(np.linalg.norm(tint - fit.luma_chroma(clip.under), axis=1))))
    recoloured = _beyond(tracks.step_lengths(tint) / contrast, _COLOUR_SLACK)
    level = np.median(fit.luma_chroma(clip.pixels - clip.ground).reshape(len(clip.pixels), -1, 3), axis=1)
    relit = _beyond(tracks.step_lengths(level) / contrast, _LEVEL_SLACK)
    steps = tracks.step_lengths(track)
    # A disc that moves by d px changes its picture by about pi r d^2 in squared contrast.
    change = np.square(fit.luma_chroma(np.diff(clip.pixels, axis=0))).sum(axis=(1, 2, 3)) / contrast**2
    frozen = tracks.freeze_share(steps, np.sqrt(change / (np.pi * clip.poses[1:, 2])))
    faults = resized + recoloured + tracks.jump_excess(steps) / 2
    if not clip.spins:  # a spinning object's deviation turns with it
        deviation = (crops - fit.smooth_coverage(clip.subject.shape, x, y, clip.poses)) * near
        faults += _beyond(_outline_change(deviation) / np.sqrt(np.pi * np.square(clip.poses[1:, 2])), _OUTLINE_SLACK)
    both_found = clip.found[1:] & clip.found[:-1]
    return np.asarray(np.exp(-np.where(both_found, faults, 1.0) - 2 * relit - frozen))


def _beyond(change: Floats, slack: float) -> Floats:
    return np.maximum(0.0, change - slack)


def _outline_change(deviation: Floats) -> Floats:
    """Return how much the deviation [T, K, K] from the ideal outline changes [T - 1], in square roots of px.

    The deviation is blurred first, for it moves with the object by fractions of a pixel.
    """
    blurred = np.lib.stride_tricks.sliding_window_view(deviation, (3, 3), axis=(1, 2)).mean(axis=(3, 4))
    return np.asarray(np.sqrt(np.square(np.diff(blurred, axis=0)).sum(axis=(1, 2))))


def shape_share(clip: Fitted) -> float:
    """Return the share of every fourth frame in which the captioned shape fits the mask better than any other."""
    chosen = slice(None, None, SHAPE_STRIDE)
    best = np.full(len(clip.masks[chosen]), np.inf)
    for shape in scenes.SHAPES:
        if shape != clip.subject.shape:
            start = clip.free.values[chosen].copy()
            start[:, 3] = 0.0
            best = np.minimum(best, fit.fit_shape(shape, clip.masks[chosen], start, turns=clip.spins).error_px)
    return float((clip.found[chosen] & (clip.free.error_px[chosen] <= best)).mean())


def colour_share(clip: Fitted) -> float:
    """Return the share of frames whose object departs from the background in the captioned colour's direction."""
    palette = np.array(list(scenes.COLOURS.values()), dtype=np.float64)[:, None] - clip.under
    seen = clip.colours - clip.under
    cosine = (palette * seen).sum(axis=2) / (np.linalg.norm(palette, axis=2) * np.linalg.norm(seen, axis=1) + 1e-9)
    right = cosine.argmax(axis=0) == list(scenes.COLOURS).index(clip.subject.colour)
    return float((clip.found & right).mean())
