"""Where shots begin and end, judged on small frames: hard cuts split, dissolves and fades are left out altogether.

Pure; stands between ``clips.probe`` (small frames) and ``clips.window``. A hard cut is a jump of the colour histogram
or of the coarse picture from one frame to the next that is still there a frame later (so a flash is none) and that
stands out from the steps around it (so fast motion is none). A dissolve is a stretch whose middle frame is the average
of its two ends while the ends differ as much as a cut: motion does not do that, since a moving thing is never half
here and half there. Only very smooth pictures that slide do: they are told apart by finding where they slid to.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_BINS = 4
_GRID = 4
_GRID_WEIGHT = 4.0  # a change of a quarter of the range in every cell counts as much as an entirely new histogram
_OUTLIER = 3.0
_NEIGHBOURS = 5
_BLEND_ERROR = 0.25  # 0 for a perfect dissolve, 0.5 at a hard cut, about 1 for motion
_HALF_LENGTHS_S = (0.15, 0.3, 0.6, 1.2)
_REACH = 5  # a picture is looked for up to a fifth of its size away
_SAME_PICTURE = 0.5
_MIXED = (0.04, 0.96)
_FAINTEST = 0.125


def find_shots(thumbnails: NDArray[np.uint8], step_s: float, threshold: float) -> list[tuple[int, int]]:
    """Return the shots of a video as (start, stop) frame indices, rising, stop exclusive, dissolve frames left out.

    Args:
        thumbnails: [T, h, w, 3] small 8-bit RGB frames.
        step_s: time between frames in seconds.
        threshold: change that counts as a cut, 0 to 1: half the L1 distance of soft colour histograms, or four
            times the mean difference of a 4 x 4 grid, whichever is larger. At 1 nothing is ever split.
    """
    count = len(thumbnails)
    features = _features(thumbnails)
    mixed = _dissolve_frames(thumbnails, features, step_s, threshold)
    starts = {0, *_hard_cuts(features, threshold).tolist()}
    shots: list[tuple[int, int]] = []
    begin: int | None = None
    for index in range(count + 1):
        ends = index == count or mixed[index] or index in starts
        if ends and begin is not None:
            shots.append((begin, index))
            begin = None
        if index < count and not mixed[index] and begin is None:
            begin = index
    return shots


def cut_strength(thumbnails: NDArray[np.uint8], step_s: float) -> float:
    """Return the largest threshold, in steps of 1/64, at which ``find_shots`` would still find a cut or a dissolve.

    0 where there is none even at ``_FAINTEST``: less is what any motion does.
    """
    features = _features(thumbnails)
    low, high = 0.0, 1.0
    while high - low > 1 / 64:
        middle = max(_FAINTEST, (low + high) / 2)
        if _hard_cuts(features, middle).size or _dissolve_frames(thumbnails, features, step_s, middle).any():
            low = middle
        elif middle == _FAINTEST:
            return 0.0
        else:
            high = middle
    return low


def _features(thumbnails: NDArray[np.uint8]) -> Floats:
    """Return [T, 64 + 48]: soft joint histogram and coarse grid, scaled so that L1 distances are changes in 0 to 1."""
    centres = np.arange(_BINS, dtype=np.float32)
    rows = np.array_split(np.arange(thumbnails.shape[1]), min(_GRID, thumbnails.shape[1]))
    columns = np.array_split(np.arange(thumbnails.shape[2]), min(_GRID, thumbnails.shape[2]))
    features = []
    for image in thumbnails:
        place = image.reshape(-1, 3).astype(np.float32) * ((_BINS - 1) / 255)
        weight = np.maximum(0, 1 - np.abs(place[:, :, None] - centres))  # [pixels, 3, bins], sums to 1 over bins
        pairs = (weight[:, 0, :, None] * weight[:, 1, None, :]).reshape(len(place), -1)
        histogram = (pairs.T @ weight[:, 2]).ravel() / len(place)
        cells = [image[np.ix_(r, c)].mean(axis=(0, 1)) for r in rows for c in columns]
        grid = np.concatenate(cells) * (_GRID_WEIGHT / 255 / (3 * len(cells)))
        features.append(np.concatenate([0.5 * histogram, grid]))
    return np.array(features, dtype=np.float32)


def _change(before: Floats, after: Floats) -> Floats:
    difference = np.abs(before - after)
    histogram = _BINS**3
    larger = np.maximum(difference[:, :histogram].sum(axis=1), difference[:, histogram:].sum(axis=1))
    change: Floats = np.minimum(larger, 1.0)
    return change


def _hard_cuts(features: Floats, threshold: float) -> NDArray[np.int64]:
    """Return the indices of first frames after a cut."""
    count = len(features)
    if count < 2:
        return np.zeros(0, dtype=np.int64)
    step = _change(features[:-1], features[1:])  # step i leads from frame i to i + 1
    frame = np.arange(count - 1)
    later = _change(features[frame], features[np.minimum(frame + 2, count - 1)])
    earlier = _change(features[np.maximum(frame - 1, 0)], features[frame + 1])
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(step, _NEIGHBOURS, mode="reflect" if count - 1 > _NEIGHBOURS else "edge"), 2 * _NEIGHBOURS + 1
    )
    usual = np.median(around, axis=1) if count - 1 > _NEIGHBOURS else np.zeros(count - 1)
    lasting = np.minimum(step, np.minimum(later, earlier))
    return np.flatnonzero((lasting > threshold) & (step > _OUTLIER * usual)) + 1


def _dissolve_frames(
    thumbnails: NDArray[np.uint8], features: Floats, step_s: float, threshold: float
) -> NDArray[np.bool_]:
    count = len(thumbnails)
    mixed = np.zeros(count, dtype=np.bool_)
    for half in sorted({max(1, round(length_s / step_s)) for length_s in _HALF_LENGTHS_S}):
        if 2 * half >= count:
            break
        middles = np.arange(half, count - half)
        changed = _change(features[middles - half], features[middles + half]) > threshold
        for middle in middles[changed]:
            stretch = thumbnails[middle - half : middle + half + 1].astype(np.float32)
            before, across = stretch[0], stretch[-1] - stretch[0]
            size = np.abs(across).mean()
            if np.abs(stretch[half] - before - across / 2).mean() > _BLEND_ERROR * size:
                continue
            if _slid(thumbnails[middle - half], thumbnails[middle + half]):
                continue
            share = ((stretch - before) * across).sum(axis=(1, 2, 3)) / (across * across).sum()
            blended = (share > _MIXED[0]) & (share < _MIXED[1])
            outside = np.flatnonzero(~blended)
            first = int(outside[outside < half].max(initial=-1)) + 1
            last = int(outside[outside > half].min(initial=2 * half + 1))
            # one frame more on either side: the ends of a dissolve are too faint to measure
            mixed[middle - half + max(first - 1, 0) : middle - half + last + 1] = True
    return mixed


def _slid(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bool:
    """Say whether the middle of ``after`` is found elsewhere in ``before``, much better than in its own place."""
    down, across = after.shape[0] // _REACH, after.shape[1] // _REACH
    if not (down and across):
        return False
    middle = after[down : after.shape[0] - down, across : after.shape[1] - across]
    misfit = cv2.matchTemplate(before, middle, cv2.TM_SQDIFF)
    return bool(misfit.min() < _SAME_PICTURE**2 * misfit[down, across])
