"""What everything that follows motion through a clip shares: the size flow is computed at, and where things change.

Read by ``clips.measure`` (the audit), ``clips.camera`` (the filter) and ``evaluation.video`` (scores).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]

_SHORT_SIDE_PX = (128, 256)
STILL_LEVELS = 2.5  # of 256: a smaller change is noise
_REACH_SHARE = 0.1
TOP_SHARE = 0.05  # of the picture: what counts as its fastest part


def flow_size(height: int, width: int, largest_px: int = _SHORT_SIDE_PX[1]) -> tuple[int, int]:
    """Return the (width, height) at which flow is computed: DIS loses small things in small frames, time in large.

    The short side is at least 128 px, and at most ``largest_px``.
    """
    low, high = _SHORT_SIDE_PX[0], largest_px
    short = min(height, width)
    scale = math.ceil(low / short) if short < low else min(1.0, high / short)
    return max(round(width * scale), 16), max(round(height * scale), 16)


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return ``image`` at ``size`` (width, height)."""
    method = cv2.INTER_CUBIC if size[0] > image.shape[1] else cv2.INTER_AREA
    return cv2.resize(image, size, interpolation=method).astype(np.uint8, copy=False)


def grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the luma of an RGB ``image``."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def follow(image: NDArray[np.uint8], flow: Map) -> NDArray[np.uint8]:
    """Return ``image`` [h, w] or [h, w, 3] as seen at the ends of ``flow`` [h, w, 2]: the next picture brought back."""
    return at_ends(image, flow).astype(np.uint8, copy=False)


def at_ends(values: NDArray[Any], flow: Map) -> NDArray[Any]:
    """Return what ``values`` [h, w] or [h, w, n], n <= 4, hold at the ends of ``flow`` [h, w, 2]."""
    moved = pixel_grid(*flow.shape[:2]) + flow
    nothing: Any = None  # both coordinates stand in the first map
    return cv2.remap(values, moved, nothing, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=2)
def pixel_grid(height: int, width: int) -> Map:
    """Return the place (x, y) of every pixel, [height, width, 2]; not to be written to."""
    rows, columns = np.indices((height, width), dtype=np.float32)
    grid: Map = np.stack([columns, rows], axis=2)
    grid.flags.writeable = False
    return grid


def scaled(vectors: Map, factors: Map) -> Map:
    """Return ``vectors`` [h, w, 2] times ``factors`` (x, y)."""
    height, width, _ = vectors.shape
    # row by row: numpy is twenty times slower where the last axis is short
    found: Map = (vectors.reshape(height, -1) * np.tile(factors, width)).reshape(vectors.shape)
    return found


def lengths(vectors: Map) -> Map:
    """Return the length [h, w] of each of ``vectors`` [h, w, 2]."""
    # not cv2.magnitude: its last digit depends on where in memory the values lie
    squares = vectors * vectors
    found: Map = np.sqrt(squares[..., 0] + squares[..., 1])
    return found


def top_mean(values: Map, share: float = TOP_SHARE) -> float:
    """Return the mean of the largest ``share`` of ``values``."""
    count = max(1, round(share * values.size))
    return float(np.partition(values.ravel(), -count)[-count:].mean())


def changed_places(before: NDArray[np.uint8], after: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return 1 where the picture changes nearby and 0 where it stands still, at ``size``.

    Without it the flow of a still, flat, slightly noisy picture reads as motion.
    """
    if before.shape[0] > size[1]:
        before, after = resized(before, size), resized(after, size)
    change = smooth_change(grey(before), grey(after))
    return cv2.resize(near(change > STILL_LEVELS), size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def smooth_change(before: NDArray[np.uint8], after: NDArray[np.uint8], blur_px: float = 1.0) -> Map:
    """Return the absolute change of luma in 8-bit levels, blurred (sigma) so that noise falls out."""
    return np.abs(cv2.GaussianBlur(after.astype(np.float32) - before, (0, 0), blur_px))


def near(places: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return 1 within a tenth of the picture's short side of any of ``places``."""
    reach = 2 * max(1, round(_REACH_SHARE * min(places.shape))) + 1
    return cv2.dilate(places.astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(np.uint8, copy=False)
