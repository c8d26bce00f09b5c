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

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.flow import pixel_grid

Map = NDArray[np.float32]
Luma = NDArray[np.uint8]
Places = NDArray[np.int64]
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
_LEAST_GAIN = 1.05  # a motion must explain more than standing still does, or noise would move the camera


def fit_camera(before: Luma, after: Luma, flow: Map) -> tuple[Map, float]:
    """Return the camera's motion and the share of textured places that agree with it.

    The motion is an affine matrix [2, 3] that leads from a place (x, y, 1) of ``before`` to where the camera carries
    it in ``after``; ``STILL`` where there is no telling. ``flow`` [h, w, 2] leads from ``before`` to ``after``.
    """
    places = _textured_places(before)
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
    away = (((places + 0.5) / before.shape[::-1] - 0.5) ** 2).sum(axis=1) ** 2
    scores = [float(support @ away) for support in supports]
    scores[0] *= _LEAST_GAIN
    best = int(np.argmax(scores))
    agrees = supports[best] > 0
    agreement = float(agrees.mean())
    trusted = agreement >= MIN_AGREEMENT and _reaches_around(places[agrees], motions[best], before.shape)
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
            more = np.linalg.lstsq((slopes.T @ slopes).astype(float), -(slopes.T @ off).astype(float), rcond=1e-6)[0]
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


def _reaches_around(places: Places, motion: Map, shape: tuple[int, ...]) -> bool:
    """Say whether ``places`` [N, 2] (x, y), N >= 1, reach over most of a picture of ``shape`` and to its sides.

    Where ``motion`` carries them counts too: what leaves the picture cannot be seen to agree.
    """
    size = np.array(shape[1::-1])
    start = places.astype(np.float32)
    where = np.concatenate([start, cv2.transform(start[:, None], motion)[:, 0]]) / size
    low, high = where.min(axis=0), where.max(axis=0)
    sides = np.count_nonzero(low < _NEAR_SHARE) + np.count_nonzero(high > 1 - _NEAR_SHARE)
    return bool((np.ptp(start / size, axis=0) >= _MIN_SPAN).all() and sides >= _MIN_SIDES)


def _textured_places(luma: NDArray[np.uint8]) -> Places:
    """Return [N, 2] places (x, y) of a grid at which the picture has edges to follow."""
    down, across = (cv2.Sobel(luma, cv2.CV_32F, *order, scale=0.25) for order in ((0, 1), (1, 0)))
    texture = cv2.blur(cv2.magnitude(down, across), (9, 9))
    step = max(2, min(max(luma.shape) // _GRID, min(luma.shape) // _LEAST_GRID))
    rows, columns = np.mgrid[step // 2 : luma.shape[0] : step, step // 2 : luma.shape[1] : step]
    places = np.stack([columns.ravel(), rows.ravel()], axis=1)
    chosen = (texture > _MIN_GRADIENT)[places[:, 1], places[:, 0]] & inside(luma.shape)[places[:, 1], places[:, 0]]
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
