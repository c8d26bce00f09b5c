"""What can be measured on any clip without knowing how it was made: motion, light, colour, sharpness, steadiness.

Read by the bias audit (what do the labels prefer?) and by the metric judge. All values are per frame, or per step from
one frame to the next, so that they can be averaged over a segment. Shape letters: T frames, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.flow import changed_places, flow_size, follow, grey, resized, top_mean

Floats = NDArray[np.float64]

_SUBJECT_GRID_PX = 48
_SUBJECT_LEVELS = 14.0
_CELLS = 8


@dataclass(frozen=True)
class FrameMeasures:
    """Measures of one clip of T frames.

    Attributes:
        motion_px_s: [T-1] mean of the fastest 5 % of the optical flow, in px/s of the given frames: how fast things go.
        mean_motion_px_s: [T-1] mean flow over the whole picture, px/s: how much moves.
        brightness: [T] mean luma, 0 to 1.
        saturation: [T] mean of (max - min) / max over the colour channels, 0 to 1.
        sharpness: [T] root mean square of the luma gradient, per px, 0 to about 0.7. (The plain mean hardly falls when
            an edge is blurred: a wide ramp has as much of it as a step.)
        subject_share: [T] share of the picture whose colour stands out from a smooth background, 0 to 1. The background
            is a quadratic in x and y fitted robustly, so this is the subject's area only where the background is smooth
            and the subject covers less than about a third; on busy pictures it reads as the share of busy places.
        flicker: [T-1] change of luma in cells of an eighth of the picture after motion is compensated, mean absolute
            value, 0 to 1. Averaging in cells keeps misplaced edges out of it.
        warp_error: [T-1] change of colour per pixel after motion is compensated, mean absolute value, 0 to 1.
    """

    motion_px_s: Floats
    mean_motion_px_s: Floats
    brightness: Floats
    saturation: Floats
    sharpness: Floats
    subject_share: Floats
    flicker: Floats
    warp_error: Floats


def measure(frames: NDArray[np.uint8], fps: float) -> FrameMeasures:
    """Measure ``frames`` [T, H, W, 3], 8-bit RGB, T >= 1, shown at ``fps``."""
    assert frames.dtype == np.uint8, frames.dtype
    assert frames.ndim == 4 and frames.shape[3] == 3 and len(frames) >= 1, frames.shape
    unit = frames.astype(np.float32) / np.float32(255)
    luma: NDArray[np.float32] = unit @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    high, low = _of_channels(np.maximum, unit), _of_channels(np.minimum, unit)
    steps = _steps(frames, fps)
    return FrameMeasures(
        motion_px_s=steps[:, 0],
        mean_motion_px_s=steps[:, 1],
        brightness=luma.mean(axis=(1, 2), dtype=np.float64),
        saturation=((high - low) / np.maximum(high, 1 / 255)).mean(axis=(1, 2), dtype=np.float64),
        sharpness=_sharpness(luma),
        subject_share=_subject_share(frames),
        flicker=steps[:, 2],
        warp_error=steps[:, 3],
    )


def _of_channels(pick: np.ufunc, colour: NDArray[np.float32]) -> NDArray[np.float32]:
    # three slices instead of .max(axis=-1): five times faster over an axis this short
    picked: NDArray[np.float32] = pick(pick(colour[..., 0], colour[..., 1]), colour[..., 2])
    return picked


def _sharpness(luma: NDArray[np.float32]) -> Floats:
    if min(luma.shape[1:]) < 2:
        return np.zeros(len(luma))
    down, across = np.gradient(luma, axis=(1, 2))
    sharpness: Floats = np.sqrt((down**2 + across**2).mean(axis=(1, 2), dtype=np.float64))
    return sharpness


def _steps(frames: NDArray[np.uint8], fps: float) -> Floats:
    """Return [T-1, 4]: top flow and mean flow in px/s, flicker, warp error."""
    height, width = frames.shape[1:3]
    size = flow_size(height, width)
    per_px = np.array([width / size[0], height / size[1]], dtype=np.float32)
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    steps = np.zeros((len(frames) - 1, 4))
    colour = resized(frames[0], size)
    luma = grey(colour)
    for index in range(len(frames) - 1):
        next_colour = resized(frames[index + 1], size)
        next_luma = grey(next_colour)
        flow = flow_of.calc(luma, next_luma, None)  # type: ignore[call-overload]
        speed = cv2.magnitude(flow[:, :, 0] * per_px[0], flow[:, :, 1] * per_px[1]) * fps
        speed *= changed_places(frames[index], frames[index + 1], size)
        if size[0] > width:
            speed = cv2.resize(speed, (width, height), interpolation=cv2.INTER_AREA)
        back = follow(next_colour, flow)
        steps[index] = (
            top_mean(speed),
            speed.mean(),
            flicker(luma, grey(back)),
            cv2.absdiff(back, colour).mean() / 255,
        )
        colour, luma = next_colour, next_luma
    return steps


def flicker(luma: NDArray[np.uint8], next_luma: NDArray[np.uint8]) -> float:
    """Return the mean absolute change of luma, 0 to 1, between cells of an eighth of the picture.

    ``next_luma`` is the next picture brought back along the flow. Averaging in cells keeps misplaced edges out of it.
    """
    change = next_luma.astype(np.float32) - luma
    cells = cv2.resize(change, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    return float(np.abs(cells).mean() / 255)


def _subject_share(frames: NDArray[np.uint8]) -> Floats:
    """Fit colour = quadratic in (x, y) to every frame with Cauchy weights; count what stays far from it."""
    height, width = frames.shape[1:3]
    scale = min(1.0, _SUBJECT_GRID_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    colour = small.reshape(len(frames), -1, 3).astype(np.float32)
    y, x = np.meshgrid(np.linspace(-1, 1, size[1]), np.linspace(-1, 1, size[0]), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2).reshape(-1, 6).astype(np.float32)
    ridge = 1e-3 * np.eye(6, dtype=np.float32)
    products = (terms[:, :, None] * terms[:, None, :]).reshape(-1, 36)
    distance = _of_channels(np.maximum, np.abs(colour - np.median(colour, axis=1, keepdims=True)))
    for _ in range(6):
        weights = 1 / (1 + (distance / (_SUBJECT_LEVELS / 2)) ** 2)  # [T, N]
        left = (weights @ products).reshape(-1, 6, 6) + ridge
        right = terms.T @ (weights[:, :, None] * colour)  # [T, 6, 3]
        fitted = terms @ np.linalg.solve(left, right)
        distance = _of_channels(np.maximum, np.abs(colour - fitted))
    share: Floats = (distance > _SUBJECT_LEVELS).mean(axis=1, dtype=np.float64)
    return share
