"""How aligned the two sides of a pair are, and how much they differ: measured frame by frame when a pair is made.

Frames and not segments, as a pair knows nothing of how it will be cut up for labelling. Sides that are all but equal
need nobody's label, and sides that do not move together cannot be compared second by second.

Shape letters: T frames.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Series = NDArray[np.float64]

_WINDOW_PX, _SIGMA_PX = 11, 1.5  # of SSIM's Gaussian window
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # SSIM's constants for 8-bit values
_BLUR_PX = 1.5  # so that a pixel's offset of something that moves does not count
_STILL = 1e-3  # standard deviation of changes, in grey levels, below which nothing moves


def alignment(first: Frames, second: Frames) -> dict[str, list[float]]:
    """Return what a pair's row says of two aligned clips [T, H, W, 3].

    Returns:
        ``frame_ssim`` [T], ``frame_difference`` [T] and ``frame_motion_agreement`` [T - 1], as described at the
        functions of the same names.
    """
    first_luma, second_luma = luma(first), luma(second)
    return {
        "frame_ssim": ssim(first_luma, second_luma).tolist(),
        "frame_difference": detail_difference(first, second).tolist(),
        "frame_motion_agreement": motion_agreement(first_luma, second_luma).tolist(),
    }


def luma(frames: Frames) -> NDArray[np.float32]:
    """Return the brightness of frames, [T, H, W], 0 to 255."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.float32)


def ssim(first: NDArray[np.float32], second: NDArray[np.float32]) -> Series:
    """Return the structural similarity of brightness [T, H, W], frame by frame, [T]; 1 is equal.

    Mean over pixels of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2)) with moments under a
    Gaussian window of 11 px and sigma 1.5 px (Wang et al. 2004).
    """
    return np.array([_frame_ssim(a, b) for a, b in zip(first, second, strict=True)])


def detail_difference(first: Frames, second: Frames) -> Series:
    """Return the mean absolute difference of two clips [T, H, W, 3], frame by frame, [T], 0 to 1."""
    return np.array([cv2.absdiff(a, b).mean() / 255 for a, b in zip(first, second, strict=True)])


def motion_agreement(first: NDArray[np.float32], second: NDArray[np.float32]) -> Series:
    """Return how well two clips agree on where they change from each frame to the next, [T - 1], -1 to 1.

    The correlation over pixels of the absolute changes of brightness [T, H, W], blurred a little. Where both stand
    still they agree fully, where one alone does not at all.
    """
    found = []
    for a, b in zip(_changes(first), _changes(second), strict=True):
        spread = sorted((float(a.std()), float(b.std())))
        if spread[1] < _STILL:
            found.append(1.0)
        elif spread[0] < _STILL:
            found.append(0.0)
        else:
            found.append(float(((a - a.mean()) * (b - b.mean())).mean() / (spread[0] * spread[1])))
    return np.array(found)


def _frame_ssim(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    mean_a, mean_b = _windowed(a), _windowed(b)
    variance_a, variance_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    covariance = _windowed(a * b) - mean_a * mean_b
    above = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    below = (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    return float((above / below).mean())


def _windowed(values: NDArray[np.float32]) -> NDArray[np.float64]:
    blurred = cv2.GaussianBlur(values.astype(np.float64), (_WINDOW_PX, _WINDOW_PX), _SIGMA_PX)
    return np.asarray(blurred, dtype=np.float64)


def _changes(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), _BLUR_PX) for frame in frames])
    return np.abs(np.diff(blurred, axis=0))
