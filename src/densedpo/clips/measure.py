"""What can be measured on any clip without knowing how it was made: motion, light, colour, sharpness, steadiness.

Read by the bias audit (what do the labels prefer?) and by the metric judge. All values are per frame, or per step from
one frame to the next, so that they can be averaged over a segment. Shape letters: T frames, H and W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_FLOW_SHORT_SIDE_PX = (128, 256)
_TOP_SHARE = 0.05
_SUBJECT_GRID_PX = 48
_SUBJECT_LEVELS = 14.0
_CELLS = 8
_STILL_LEVELS = 2.5
_REACH_SHARE = 0.1


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


def flow_size(height: int, width: int) -> tuple[int, int]:
    """Return the (width, height) at which flow is computed: DIS loses small things in small frames, time in large."""
    low, high = _FLOW_SHORT_SIDE_PX
    short = min(height, width)
    scale = math.ceil(low / short) if short < low else min(1.0, high / short)
    return max(round(width * scale), 16), max(round(height * scale), 16)


def _steps(frames: NDArray[np.uint8], fps: float) -> Floats:
    """Return [T-1, 4]: top flow and mean flow in px/s, flicker, warp error."""
    height, width = frames.shape[1:3]
    size = flow_size(height, width)
    per_px = np.array([width / size[0], height / size[1]], dtype=np.float32)
    method = cv2.INTER_CUBIC if size[0] > width else cv2.INTER_AREA
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    columns, rows = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    grid = np.stack([columns, rows], axis=2)
    top_count = max(1, round(_TOP_SHARE * min(size[0], width) * min(size[1], height)))
    steps = np.zeros((len(frames) - 1, 4))
    colour = cv2.resize(frames[0], size, interpolation=method)
    luma = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    for index in range(len(frames) - 1):
        next_colour = cv2.resize(frames[index + 1], size, interpolation=method)
        next_luma = cv2.cvtColor(next_colour, cv2.COLOR_RGB2GRAY)
        flow = flow_of.calc(luma, next_luma, None)  # type: ignore[call-overload]
        speed = cv2.magnitude(flow[:, :, 0] * per_px[0], flow[:, :, 1] * per_px[1]) * fps
        speed *= changed_places(frames[index], frames[index + 1], size)
        if size[0] > width:
            speed = cv2.resize(speed, (width, height), interpolation=cv2.INTER_AREA)
        speed = speed.ravel()
        moved = grid + flow
        back = cv2.remap(next_colour, moved[:, :, 0], moved[:, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        change = cv2.cvtColor(back, cv2.COLOR_RGB2GRAY).astype(np.float32) - luma
        cells = cv2.resize(change, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
        steps[index] = (
            np.partition(speed, -top_count)[-top_count:].mean(),
            speed.mean(),
            np.abs(cells).mean() / 255,
            cv2.absdiff(back, colour).mean() / 255,
        )
        colour, luma = next_colour, next_luma
    return steps


def changed_places(before: NDArray[np.uint8], after: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return 1 where the picture changes nearby and 0 where it stands still, at ``size``.

    Without it the flow of a still, flat, slightly noisy picture reads as motion.
    """
    if before.shape[0] > size[1]:
        old, new = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (before, after))
    else:
        old, new = before, after
    change = cv2.cvtColor(new, cv2.COLOR_RGB2GRAY).astype(np.float32) - cv2.cvtColor(old, cv2.COLOR_RGB2GRAY)
    moved = (np.abs(cv2.GaussianBlur(change, (0, 0), 1.0)) > _STILL_LEVELS).astype(np.uint8)
    reach = 2 * max(1, round(_REACH_SHARE * min(moved.shape))) + 1
    near = cv2.dilate(moved, np.ones((reach, reach), np.uint8))
    return cv2.resize(near, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)


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
