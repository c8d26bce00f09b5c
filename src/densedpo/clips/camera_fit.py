"""The camera's motion between two pictures: one affine motion (pan, zoom, roll, shear) that the ground follows.

Read by ``clips.camera`` (the filter) and ``evaluation.video`` (scores). Flow cannot tell it: it smears around things,
and slow flow is up to a fifth too fast. So flow only proposes motions (that of most places, that of the rest), and the
pictures themselves make each of them exact and say which one the ground follows: the one that explains most. Places
far from the middle weigh more, since a thing stands before the ground, and the ground reaches past it.

Stated limits: where the texture that agrees does not come near three sides of the picture (a lone thing before a plain
ground, but a dark scene with one bright corner too), or is less than ``MIN_AGREEMENT`` of all, there is no telling:
then all motion is that of things. A thing that is cut off by three sides may be taken for the ground.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.flow import pixel_grid

Map = NDArray[np.float32]
Luma = NDArray[np.uint8]
Places = NDArray[np.int64]
Box = tuple[slice, slice]
STILL: Map = np.eye(2, 3, dtype=np.float32)

MIN_AGREEMENT = 0.4
_MIN_SPAN = 0.5  # of the picture's width and height, between places that agree
_MIN_SIDES = 3  # of the picture that they come near: a thing seldom is cut off by so many
_NEAR_SHARE = 0.12  # of the picture's size: that near
_GRID = 24  # places along the longer side that the camera is fitted to
_LEAST_GRID = 8  # along the shorter side: fewer would not span a very wide picture
_MIN_PLACES = 12
_INLIER_PX = 0.6  # at the size flow is computed at: about the error of the flow itself
_MIN_GRADIENT = 4.0  # levels per px, averaged over a few px: less has no texture to follow
EDGE_SHARE = 0.04  # of the picture's size, left out: flow is guessed there
_PATCH = np.stack(np.meshgrid(*[np.arange(-3, 4, 3)] * 2), axis=2).reshape(-1, 2)  # (x, y) around a place
_NOISE_LEVELS = 1.5
_LENIENCY = (2.0, 1.0, 0.5)  # of each step of Gauss and Newton: at last, places that something else moves are left out
_BLACK_LEVEL = 10  # of 256, in a black bar
_BAR_PX = 2  # by how much bars may differ
_LEAST_PICTURE = 0.4  # between them
_LEAST_GAIN = 1.05  # a motion must explain more than standing still does, or noise would move the camera


def fit_camera(before: Luma, after: Luma, flow: Map, box: Box) -> tuple[Map, float]:
    """Return the camera's motion and the share of textured places that agree with it.

    The motion is an affine matrix [2, 3] that leads from a place (x, y, 1) of ``before`` to where the camera carries
    it in ``after``; ``STILL`` where there is no telling. ``flow`` [h, w, 2] leads from ``before`` to ``after``, and
    ``box`` is where the picture is (``between_bars``).
    """
    places = _textured_places(before, box)
    if len(places) < _MIN_PLACES:
        return STILL, 0.0
    patches = _Patches(before, after, places)
    motions = [STILL, patches.refined(STILL)]
    rest = np.ones(len(places), dtype=np.bool_)
    for _ in range(2):
        proposed = _consistent(places[rest], flow)
        if proposed is None:
            break
        motions.append(patches.refined(proposed))
        rest &= patches.support(motions[-1]) <= 0
        if rest.sum() < _MIN_PLACES:
            break
    supports = [patches.support(motion) for motion in motions]
    away = ((_places_in(box, places) - 0.5) ** 2).sum(axis=1) ** 2
    scores = [float(support @ away) for support in supports]
    scores[0] *= _LEAST_GAIN
    best = int(np.argmax(scores))
    agrees = supports[best] > 0
    agreement = float(agrees.mean())
    trusted = agreement >= MIN_AGREEMENT and _reaches_around(places[agrees], motions[best], box)
    return (motions[best] if trusted else STILL), agreement


class _Patches:
    """What two pictures show around each of N places of the first."""

    def __init__(self, before: Luma, after: Luma, places: Places) -> None:
        smooth, self._after = (cv2.GaussianBlur(luma.astype(np.float32), (0, 0), 1.0) for luma in (before, after))
        height, width = before.shape
        around = places[:, None] + _PATCH
        x, y = np.clip(around[..., 0], 1, width - 2), np.clip(around[..., 1], 1, height - 2)
        self._around = np.stack([x, y], axis=2).astype(np.float32)
        self._seen = smooth[y, x]
        slopes = np.stack([smooth[y, x + 1] - smooth[y, x - 1], smooth[y + 1, x] - smooth[y - 1, x]], axis=2) / 2
        self._tolerance = _NOISE_LEVELS + _INLIER_PX / 2 * np.linalg.norm(slopes, axis=2).mean(axis=1)
        # centred and scaled, so that the equations are well conditioned
        self._middle, self._scale = np.array([width / 2, height / 2], dtype=np.float32), 2 / max(height, width)
        ends = np.dstack([(self._around - self._middle) * self._scale, np.ones(x.shape, dtype=np.float32)])
        self._slopes = _centred((slopes[..., :, None] * ends[..., None, :]).reshape(*x.shape, 6))

    def change(self, motion: Map) -> Map:
        """Return [N, P] by how much ``after``, where ``motion`` leads, differs: without what changes alike nearby."""
        ends = cv2.transform(self._around, motion)
        found = cv2.remap(self._after, ends[..., 0], ends[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return _centred(found - self._seen)

    def support(self, motion: Map) -> Map:
        """Return [N] how well ``motion`` explains each place: 1 entirely, 0 not at all."""
        support: Map = np.maximum(0, 1 - np.abs(self.change(motion)).mean(axis=1) / self._tolerance)
        return support

    def refined(self, motion: Map) -> Map:
        """Return ``motion`` made exact at the places that it about explains (Gauss and Newton, least squares)."""
        for leniency in _LENIENCY:
            change = self.change(motion)
            near = np.abs(change).mean(axis=1) < leniency * self._tolerance
            slopes, off = self._slopes[near].reshape(-1, 6), change[near].ravel()
            normal = (slopes.T @ slopes).astype(np.float64)
            ridge = 1e-6 * max(float(np.trace(normal)), 1.0) * np.eye(6)  # what the pictures leave open stays
            more = np.linalg.solve(normal + ridge, -(slopes.T @ off).astype(np.float64))
            turn, shift = np.split(more.reshape(2, 3), [2], axis=1)
            turn = turn * self._scale
            motion = motion + np.hstack([turn, shift - turn @ self._middle[:, None]]).astype(np.float32)
        return motion


def _centred(values: Map) -> Map:
    """Return ``values`` [N, P, ...] less the mean over each patch."""
    return values - values.mean(axis=1, keepdims=True)


def _consistent(places: Places, flow: Map) -> Map | None:
    """Return the affine motion that flow has at most of ``places``."""
    start = places.astype(np.float32)
    stop = start + flow[places[:, 1], places[:, 0]]
    fitted, _ = cv2.estimateAffine2D(start, stop, method=cv2.RANSAC, ransacReprojThreshold=_INLIER_PX)
    return None if fitted is None else fitted.astype(np.float32)  # type: ignore[redundant-expr]


def between_bars(before: Luma, after: Luma) -> Box:
    """Return the rows and columns of the picture between two black bars: all of it where there are none.

    Bars are black in both pictures, as wide on one side as on the other, and not on all four.
    """
    rows, columns = (_lit_span([luma.max(axis=across) > _BLACK_LEVEL for luma in (before, after)]) for across in (1, 0))
    whole = slice(0, before.shape[0]), slice(0, before.shape[1])
    return (rows, columns) if rows == whole[0] or columns == whole[1] else whole


def _lit_span(lit: list[NDArray[np.bool_]]) -> slice:
    """Return from where to where both pictures are lit, if what is left is two steady bars of one width; else all."""
    ends = [(where[0], where[-1] + 1) for where in map(np.flatnonzero, lit) if len(where)]
    length = len(lit[0])
    low, high = (int(max(low for low, _ in ends)), int(min(high for _, high in ends))) if ends else (0, length)
    steady = np.ptp(ends, axis=0).max() <= _BAR_PX if ends else False
    bars = steady and abs(low - (length - high)) <= _BAR_PX and high - low >= _LEAST_PICTURE * length
    return slice(low, high) if bars else slice(0, length)


def _places_in(box: Box, places: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``places`` [N, 2] (x, y) as shares of the width and height of ``box``."""
    rows, columns = box
    size = np.array([columns.stop - columns.start, rows.stop - rows.start])
    found: NDArray[np.float64] = (places + 0.5 - (columns.start, rows.start)) / size
    return found


def _reaches_around(places: Places, motion: Map, box: Box) -> bool:
    """Say whether ``places`` [N, 2] (x, y), N >= 1, reach over most of the picture ``box`` and to its sides.

    Where ``motion`` carries them counts too: what leaves the picture cannot be seen to agree.
    """
    carried = cv2.transform(places[:, None].astype(np.float32), motion)[:, 0]
    start = _places_in(box, places)
    where = np.concatenate([start, _places_in(box, carried)])
    low, high = where.min(axis=0), where.max(axis=0)
    sides = np.count_nonzero(low < _NEAR_SHARE) + np.count_nonzero(high > 1 - _NEAR_SHARE)
    return bool((np.ptp(start, axis=0) >= _MIN_SPAN).all() and sides >= _MIN_SIDES)


def _textured_places(luma: Luma, box: Box) -> Places:
    """Return [N, 2] places (x, y) of a grid at which the picture ``box`` has edges to follow."""
    down, across = (cv2.Sobel(luma, cv2.CV_32F, *order, scale=0.25) for order in ((0, 1), (1, 0)))
    texture = cv2.blur(cv2.magnitude(down, across), (9, 9))
    step = max(2, min(max(luma.shape) // _GRID, min(luma.shape) // _LEAST_GRID))
    rows, columns = np.mgrid[step // 2 : luma.shape[0] : step, step // 2 : luma.shape[1] : step]
    places = np.stack([columns.ravel(), rows.ravel()], axis=1)
    usable = np.zeros(luma.shape, dtype=np.bool_)
    usable[box] = inside(usable[box].shape)
    chosen = (usable & (texture > _MIN_GRADIENT))[places[:, 1], places[:, 0]]
    found: Places = places[chosen]
    return found


def inside(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the places of a picture of ``shape`` that are not at its edges."""
    places = np.zeros(shape[:2], dtype=np.bool_)
    down, across = (round(EDGE_SHARE * length) for length in shape[:2])
    places[down : shape[0] - down, across : shape[1] - across] = True
    return places


def camera_flow(matrix: Map, shape: tuple[int, ...]) -> Map:
    """Return the flow [h, w, 2] of a picture of ``shape`` that moves with ``matrix`` [2, 3]."""
    return cv2.transform(pixel_grid(*shape[:2]), matrix - STILL).astype(np.float32, copy=False)
