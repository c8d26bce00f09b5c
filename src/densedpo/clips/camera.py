"""How fast things move in a clip once the camera's own motion is taken out; read by ``clips filter``.

Between adjacent frames, dense optical flow is taken and one affine motion (pan, zoom, roll, shear) is fitted to it by
RANSAC, at places with enough texture for flow to mean something. What the fit explains is the camera, what is left is
the foreground. Where no one motion explains ``MIN_AGREEMENT`` of the places, or those it explains do not span the
picture (a lone subject before a plain sky), there is no telling: then all motion counts as foreground, so that a clip
is kept rather than lost.

Stated limits: parallax of a deep scene counts as foreground; a subject that fills most of the picture, from edge to
edge, is taken for the camera. Shape letters: T frames, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.flow import changed_places, flow_size, grey, pixel_grid, resized, top_mean

Floats = NDArray[np.float64]
Map = NDArray[np.float32]
STILL: Map = np.eye(2, 3, dtype=np.float32)

MIN_AGREEMENT = 0.4
_MIN_SPAN = 0.65  # of the picture's width and height, between places that agree
_GRID = 24  # places along the longer side that the camera is fitted to
_LEAST_GRID = 8  # along the shorter side: fewer would not span a very wide picture
_MIN_PLACES = 12
_INLIER_PX = 0.6  # at the size flow is computed at: about the error of the flow itself
_MIN_GRADIENT = 4.0  # levels per px, averaged over a few px: less has no texture to follow
_EDGE_SHARE = 0.04  # of the picture's size, left out: flow is guessed there


@dataclass(frozen=True)
class Motion:
    """Speeds from each frame to the next, [T-1], in px/s of the given frames.

    Attributes:
        total_px_s: mean of the fastest 5 % of the picture, camera included.
        camera_px_s: mean over the picture of the camera's motion.
        foreground_px_s: mean of the fastest 5 % once the camera is taken out.
        agreement: share of the textured places that the camera explains, 0 to 1.
    """

    total_px_s: Floats
    camera_px_s: Floats
    foreground_px_s: Floats
    agreement: Floats


def motion(frames: NDArray[np.uint8], fps: float) -> Motion:
    """Measure ``frames`` [T, H, W, 3], 8-bit RGB, shown at ``fps``; a single frame has no steps at all."""
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3, (frames.dtype, frames.shape)
    height, width = frames.shape[1:3]
    size = flow_size(height, width)
    to_px_s = np.array([width / size[0], height / size[1]], dtype=np.float32) * np.float32(fps)
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    lumas = [grey(resized(image, size)) for image in frames]
    steps = np.zeros((max(len(frames) - 1, 0), 4))
    for index in range(len(steps)):
        flow = flow_of.calc(lumas[index], lumas[index + 1], None)  # type: ignore[call-overload]
        alive = changed_places(frames[index], frames[index + 1], size).astype(bool)
        flow[~alive] = 0  # the flow of a still, slightly noisy picture reads as motion
        matrix, agreement = fit_camera(lumas[index], flow)
        camera = camera_flow(matrix, flow.shape)
        # where the camera moves but flow sees nothing change, there is nothing to follow either
        rest = np.where(alive[..., None], flow - camera, 0)
        steps[index] = _top(flow * to_px_s), _speed(camera * to_px_s).mean(), _top(rest * to_px_s), agreement
    return Motion(*steps.T)


def fit_camera(luma: NDArray[np.uint8], flow: Map) -> tuple[Map, float]:
    """Return the camera's motion and the share of textured places that agree with it.

    The motion is an affine matrix [2, 3] that leads from a place (x, y, 1) to where the camera carries it; ``STILL``
    where there is no telling.
    """
    places = _textured_places(luma)
    if len(places) < _MIN_PLACES:
        return STILL, 0.0
    start = places.astype(np.float32)
    stop = start + flow[places[:, 1], places[:, 0]]
    # a slow thing is within the fit's tolerance of the still ground, and would pull the fit along
    unmoved = (start == stop).all(axis=1)
    if unmoved.mean() >= MIN_AGREEMENT and _spans(start[unmoved], luma.shape):
        return STILL, float(unmoved.mean())
    fitted, _ = cv2.estimateAffine2D(start, stop, method=cv2.RANSAC, ransacReprojThreshold=_INLIER_PX)
    if fitted is None:
        return STILL, 0.0
    matrix = fitted.astype(np.float32)
    misfit = np.linalg.norm(start @ matrix[:, :2].T + matrix[:, 2] - stop, axis=1)
    agrees = misfit < _INLIER_PX
    agreement = float(agrees.mean())
    return (matrix if agreement >= MIN_AGREEMENT and _spans(start[agrees], luma.shape) else STILL), agreement


def _spans(places: Map, shape: tuple[int, ...]) -> bool:
    """Say whether ``places`` [N, 2] (x, y) reach over most of a picture of ``shape``."""
    return len(places) > 0 and bool((np.ptp(places, axis=0) >= _MIN_SPAN * np.array(shape[::-1])).all())


def camera_flow(matrix: Map, shape: tuple[int, ...]) -> Map:
    """Return the flow [h, w, 2] of a picture of ``shape`` that moves with ``matrix`` [2, 3]."""
    return cv2.transform(pixel_grid(*shape[:2]), matrix - STILL).astype(np.float32, copy=False)


def _textured_places(luma: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return [N, 2] places (x, y) of a grid at which the picture has edges to follow."""
    down, across = (cv2.Sobel(luma, cv2.CV_32F, *order, scale=0.25) for order in ((0, 1), (1, 0)))
    texture = cv2.blur(cv2.magnitude(down, across), (9, 9))
    inside = _inside(luma.shape)
    step = max(2, min(max(luma.shape) // _GRID, min(luma.shape) // _LEAST_GRID))
    rows, columns = np.mgrid[step // 2 : luma.shape[0] : step, step // 2 : luma.shape[1] : step]
    places = np.stack([columns.ravel(), rows.ravel()], axis=1)
    chosen = (texture > _MIN_GRADIENT)[places[:, 1], places[:, 0]] & inside[places[:, 1], places[:, 0]]
    found: NDArray[np.int64] = places[chosen]
    return found


def _inside(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    inside = np.zeros(shape[:2], dtype=np.bool_)
    down, across = (round(_EDGE_SHARE * length) for length in shape[:2])
    inside[down : shape[0] - down, across : shape[1] - across] = True
    return inside


def _speed(flow: Map) -> Map:
    return np.hypot(flow[..., 0], flow[..., 1])


def _top(flow: Map) -> float:
    """Return the mean of the fastest twentieth of the picture, its edges left out."""
    return top_mean(_speed(flow)[_inside(flow.shape)])
