"""Planted damages: what anybody would see, done to the frames of one segment, to test judges with.

Pure functions on uint8 [T, H, W, 3]; shape and type stay. Each says how strong it is and why that is strong enough.
labels/judges/trials.py plants them, and leaves out those that a segment happens to hide (a still one has no frames to
drop).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

# A blur of a thirtieth of the short side (16 px at 480p) leaves no texture, and at least 2 px in small pictures.
_BLUR_SHARE, _BLUR_LEAST_PX = 1 / 30, 2.0
# A picture that stands for three eighths of a second is a stutter to everybody, also at 8 frames shown for a second.
_HOLD_S, _HOLD_LEAST_FRAMES = 0.375, 3
# Half of a pure magenta or green: 64 levels and more in the mean of the channels.
_CAST_SHARE = 0.5
_CASTS = np.array([[255, 0, 255], [0, 255, 0]], dtype=np.float64)
# Three fifths of height and width: a good third of the picture is gone, for the middle half of the time.
_HOLE_SHARE = 0.6
# A quarter of the height, or as small as can still be read; never wider than the picture.
_TEXT_SHARE, _TEXT_LEAST_PX, _TEXT_WIDEST = 0.25, 14, 0.95
# Strokes thinner than a pixel stay: a third of a pixel is ink enough.
_INK = 85
_WORDS = ("CHOOSE", "THE FIRST")

# A damage shows if one value in fifty is off by twelve levels of 255.
_SEEN_LEVELS, _SEEN_SHARE = 12, 0.02


def blurred(frames: Frames, fps: float) -> Frames:
    """Return every frame blurred by a Gaussian of a thirtieth of the short side, at least 2 px."""
    del fps
    sigma_px = max(_BLUR_LEAST_PX, _BLUR_SHARE * min(frames.shape[1:3]))
    return _stacked(frames, lambda index: cv2.GaussianBlur(frames[index], (0, 0), sigma_px))


def frame_dropped(frames: Frames, fps: float) -> Frames:
    """Return a stutter: each picture held for three eighths of a second, the frames it covers dropped."""
    hold = max(_HOLD_LEAST_FRAMES, round(_HOLD_S * fps))
    return frames[np.arange(len(frames)) // hold * hold]


def colour_shifted(frames: Frames, fps: float) -> Frames:
    """Return the second half under a strong cast of magenta or green, whichever the picture has less of."""
    del fps
    mean = frames.mean(axis=(0, 1, 2))
    cast = _CASTS[np.abs(_CASTS - mean).sum(axis=1).argmax()]
    tinted = np.round((1 - _CAST_SHARE) * frames + _CAST_SHARE * cast).astype(np.uint8)
    return np.concatenate([frames[: len(frames) // 2], tinted[len(frames) // 2 :]])


def part_erased(frames: Frames, fps: float) -> Frames:
    """Return the middle half of the frames with a flat hole in the centre: black on light pictures, white on dark."""
    del fps
    count, height, width = frames.shape[:3]
    time = slice(count // 4, max(count // 4 + 1, count - count // 4))
    inside = [
        slice(round(side * (1 - _HOLE_SHARE) / 2), round(side * (1 + _HOLE_SHARE) / 2)) for side in (height, width)
    ]
    erased = frames.copy()
    hidden = erased[time, inside[0], inside[1]]
    hidden[...] = 0 if hidden.mean() > 127 else 255
    return erased


def frozen(frames: Frames, fps: float) -> Frames:
    """Return the first frame for the whole time."""
    del fps
    return np.repeat(frames[:1], len(frames), axis=0)


DAMAGES: dict[str, Callable[[Frames, float], Frames]] = {
    "blurred": blurred,
    "frame_dropped": frame_dropped,
    "colour_shifted": colour_shifted,
    "part_erased": part_erased,
}


def shows(clean: Frames, damaged: Frames) -> bool:
    """Return whether anybody could tell the two apart: one value in fifty is off by twelve levels of 255."""
    return bool((cv2.absdiff(clean, damaged) > _SEEN_LEVELS).mean() >= _SEEN_SHARE) if clean.size else False


def with_text(frames: Frames, place: float) -> Frames:
    """Return the frames with "CHOOSE THE FIRST" in white on a dark edge, opaque; ``place`` is 0 at the top, 1 below."""
    letters, edge = _letters(frames.shape[1], frames.shape[2], place)
    return np.where(letters, np.uint8(255), np.where(edge, np.uint8(0), frames))


def _letters(height: int, width: int, place: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which pixels [H, W, 1] are letters, and which are letters or their edge."""
    # drawn large, then reduced: small letters of the font itself cannot be read
    font, scale, thick, rim = cv2.FONT_HERSHEY_SIMPLEX, 1.0, 3, 4
    lines = []
    for words in _WORDS:
        (across, up), below = cv2.getTextSize(words, font, scale, thick)
        line = np.zeros((up + below + 2 * rim, across + 2 * rim), np.uint8)
        lines.append(cv2.putText(line, words, (rim, up + rim), font, scale, 255, thick, cv2.LINE_AA))
    widest = max(line.shape[1] for line in lines)
    block = np.concatenate([np.pad(line, ((0, 0), (0, widest - line.shape[1]))) for line in lines])
    tallest_px = max(_TEXT_LEAST_PX, _TEXT_SHARE * height)
    fit = min(_TEXT_WIDEST * width / block.shape[1], tallest_px / block.shape[0], height / block.shape[0])
    across, down = (max(1, round(side * fit)) for side in (block.shape[1], block.shape[0]))
    letters = np.zeros((height, width), np.uint8)
    top, left = round(place * (height - down)), (width - across) // 2
    letters[top : top + down, left : left + across] = (
        cv2.resize(block, (across, down), interpolation=cv2.INTER_AREA) > _INK
    )
    reach = 2 * max(1, round(0.05 * down)) + 1
    edge = cv2.dilate(letters, np.ones((reach, reach), np.uint8))
    return letters[..., None].astype(bool), edge[..., None].astype(bool)


def _stacked(frames: Frames, change: Callable[[int], NDArray[np.uint8]]) -> Frames:
    return np.stack([change(index) for index in range(len(frames))])
