"""What a vision-language model sees of a segment: a few frames of both sides, at the same moments, as encoded images.

Each frame is reduced and encoded once; asking in the other order shows the same images the other way round. Only the
``side_by_side`` layout needs others for that, as there the order is inside the images.
"""

from __future__ import annotations

import hashlib
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.config import JudgeSettings
from densedpo.labels.answers import Side
from densedpo.labels.judges.answerer import Image
from densedpo.labels.judges.base import SegmentPair

MOST_FRAMES = 32  # of a side: services refuse or silently thin out requests with far more than 64 images
MOST_SHEET_SIDE_PX = 2048  # services reduce what is larger
JPEG_QUALITY = 90
_GAP_PX = 4
_WHITE = 255
Frames = NDArray[np.uint8]


def chosen_frames(num_frames: int, fps: float, frames_per_s: float) -> NDArray[np.int64]:
    """Return the indices shown of ``num_frames`` frames: ``frames_per_s`` for each second, spread evenly over time.

    At least 2, at most MOST_FRAMES, never more than there are: each index is the frame in the middle of its share.
    """
    wanted = round(num_frames / fps * frames_per_s)
    count = min(max(wanted, 2), MOST_FRAMES, num_frames)
    return ((np.arange(count) + 0.5) * num_frames / max(count, 1)).astype(np.int64)


class SegmentImages:
    """The images of one segment in either order, encoded when they are first needed and then kept.

    For one thread: before Python 3.12 a cached property has one lock for all segments, and encoding would take turns.
    """

    def __init__(self, pair: SegmentPair, settings: JudgeSettings) -> None:
        self._settings = settings
        shown = chosen_frames(min(len(pair.frames_a), len(pair.frames_b)), pair.fps, settings.frames_per_s)
        self.count = len(shown)
        self._frames: dict[Side, Frames] = {"a": pair.frames_a[shown], "b": pair.frames_b[shown]}
        self._parts: dict[Side, tuple[str | Image, ...]] = {}
        self._sides: dict[Side, tuple[Image, ...]] = {}

    def parts(self, first: Side) -> tuple[str | Image, ...]:
        """Return words and images in the order of a question in which ``first`` is the first clip."""
        if first not in self._parts:
            self._parts[first] = self._arranged(first)
        return self._parts[first]

    def _arranged(self, first: Side) -> tuple[str | Image, ...]:
        second: Side = "b" if first == "a" else "a"
        layout = self._settings.layout
        if layout == "side_by_side":
            return (
                f"{self.count} images in the order of time. In each, the first clip is left of the white line and the "
                "second clip is right of it, at the same moment:",
                *self._beside(first, second),
            )
        if layout == "grid":
            how = f"one image with {self.count} frames in the order of time, row by row from the top left"
            self._sides = self._sides or self._sheets()
        else:
            how = f"{self.count} frames in the order of time"
            self._sides = self._sides or self._encoded()
        sides = self._sides
        return (f"The first clip, {how}:", *sides[first], f"The second clip, {how}:", *sides[second])

    def _encoded(self) -> dict[Side, tuple[Image, ...]]:
        return {side: tuple(self._image(frame) for frame in frames) for side, frames in self._reduced().items()}

    def _sheets(self) -> dict[Side, tuple[Image, ...]]:
        columns = math.ceil(math.sqrt(self.count))
        rows = math.ceil(self.count / columns)
        _, height, width, _ = self._frames["a"].shape
        side_px = int(max(height, width) * MOST_SHEET_SIDE_PX / max(rows * height, columns * width))
        small = {
            side: _reduced(frames, min(side_px, self._settings.max_side_px)) for side, frames in self._frames.items()
        }
        return {side: (self._image(_sheet(frames, columns, rows)),) for side, frames in small.items()}

    def _beside(self, first: Side, second: Side) -> tuple[Image, ...]:
        reduced = self._reduced()
        couples = zip(reduced[first], reduced[second], strict=True)
        return tuple(self._image(_sheet(np.stack(couple), columns=2, rows=1)) for couple in couples)

    def _reduced(self) -> dict[Side, Frames]:
        return {side: _reduced(frames, self._settings.max_side_px) for side, frames in self._frames.items()}

    def _image(self, pixels: Frames) -> Image:
        return encode_image(pixels, self._settings.image_format)


def frames_digest(frames: Frames) -> str:
    """Return the digest of what ``frames`` show, whatever file they came from."""
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()


def encode_image(pixels: Frames, image_format: str) -> Image:
    """Encode RGB ``pixels`` [H, W, 3] as "jpeg" or "png"; the digest is that of the encoded bytes."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if image_format == "jpeg" else []
    done, encoded = cv2.imencode(f".{image_format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done, (pixels.shape, image_format)
    data = encoded.tobytes()
    return Image(data, f"image/{image_format}", hashlib.sha256(data).hexdigest()[:32])


def _reduced(frames: Frames, longer_side_px: int) -> Frames:
    """Return ``frames`` [T, H, W, 3] with the longer side at most ``longer_side_px``; smaller ones stay as they are."""
    _, height, width, _ = frames.shape
    scale = longer_side_px / max(height, width)
    if scale >= 1:
        return frames
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]).astype(np.uint8)


def _sheet(frames: Frames, columns: int, rows: int) -> Frames:
    """Return ``frames`` [T, H, W, 3] row by row in one picture, white lines between them, white where none is left."""
    _, height, width, _ = frames.shape
    sheet = np.full((rows * (height + _GAP_PX) - _GAP_PX, columns * (width + _GAP_PX) - _GAP_PX, 3), _WHITE, np.uint8)
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        top, left = row * (height + _GAP_PX), column * (width + _GAP_PX)
        sheet[top : top + height, left : left + width] = frame
    return sheet
