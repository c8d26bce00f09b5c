"""How fast things move in a clip once the camera's own motion is taken out; read by ``clips filter``.

Between adjacent frames, dense optical flow is taken and the camera's motion fitted (``clips.camera_fit``): what it
explains is the camera, what is left is the foreground. Where there is no telling, all motion counts as foreground, so
that a clip is kept rather than lost.

Stated limits: parallax of a deep scene counts as foreground; a subject that fills most of the picture, from edge to
edge, is taken for the camera. Shape letters: T frames, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.camera_fit import between_bars, camera_flow, fit_camera, inside
from densedpo.clips.flow import changed_places, flow_size, grey, resized, top_mean

Floats = NDArray[np.float64]
Map = NDArray[np.float32]


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
        pictures = lumas[index], lumas[index + 1]
        matrix, agreement = fit_camera(*pictures, flow, between_bars(*pictures))
        camera = camera_flow(matrix, flow.shape)
        # where the camera moves but flow sees nothing change, there is nothing to follow either
        rest = np.where(alive[..., None], flow - camera, 0)
        steps[index] = _top(flow * to_px_s), _speed(camera * to_px_s).mean(), _top(rest * to_px_s), agreement
    return Motion(*steps.T)


def _speed(flow: Map) -> Map:
    return np.hypot(flow[..., 0], flow[..., 1])


def _top(flow: Map) -> float:
    """Return the mean of the fastest twentieth of the picture, its edges left out."""
    return top_mean(_speed(flow)[inside(flow.shape)])
