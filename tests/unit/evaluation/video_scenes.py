"""Clips with known motion: a textured thing before a textured or plain ground, whole-picture pans and zooms."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.evaluation.video.meter import measure_frames
from densedpo.evaluation.video.summary import VideoScores, summarise
from densedpo.keys import stream

Frames = NDArray[np.uint8]
Picture = NDArray[np.float32]
_CUT = 0.35


def scored(frames: Frames, fps: float = 8.0, segment_s: float = 100.0) -> VideoScores:
    return summarise(measure_frames(frames, fps), segment_s, _CUT)


def texture(name: str, height: int, width: int, cell_px: int) -> Picture:
    """A random picture [H, W, 3] with coarse colours and some fine grain, as photographs have."""
    rng = stream("tests", "video-texture", name)
    down, across = height // cell_px + 3, width // cell_px + 3
    coarse = rng.uniform(0, 255, (down, across, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (across * cell_px, down * cell_px), interpolation=cv2.INTER_CUBIC)[:height, :width]
    grain = cv2.GaussianBlur(rng.uniform(-127, 127, (height, width, 3)).astype(np.float32), (0, 0), 1.2)
    return np.clip(smooth + grain, 0, 255).astype(np.float32)


def panned(
    height: int, width: int, step_px: tuple[float, float], count: int = 6, zoom: float = 0.0, roll_deg: float = 0.0
) -> Frames:
    """The picture moves by ``step_px`` (x, y) a frame, is enlarged by ``zoom`` and turned by ``roll_deg``."""
    margin = int(np.abs(step_px).max() * count) + 40
    ground = texture("ground", height + 2 * margin, width + 2 * margin, max(4, min(height, width) // 24))
    frames = []
    for index in range(count):
        turn = np.vstack(
            [cv2.getRotationMatrix2D((width / 2, height / 2), roll_deg * index, 1 + zoom * index), [0, 0, 1]]
        )
        shift = np.eye(3)
        shift[:2, 2] = np.array(step_px) * index - margin
        frames.append(cv2.warpAffine(ground, (turn @ shift)[:2], (width, height), flags=cv2.INTER_CUBIC))
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Thing:
    """A textured or plain square of ``side_px`` that moves by ``step_px`` a frame through the middle of the picture."""

    side_px: int
    step_px: tuple[float, float]
    plain: bool = False

    def on(self, ground: Frames) -> tuple[Frames, float]:
        """Return the frames with the thing in front, and the share of the picture that it covers."""
        count, height, width = ground.shape[:3]
        side, step = self.side_px, np.array(self.step_px)
        colour = (
            np.full((side, side, 3), (230, 200, 60), np.float32)
            if self.plain
            else texture("thing", side, side, max(4, side // 6))
        )
        start = np.array([width, height]) / 2 - step * (count - 1) / 2 - side / 2
        frames, covered = [], 0.0
        for index in range(count):
            place = np.column_stack([np.eye(2), start + step * index])
            front = cv2.warpAffine(colour, place, (width, height))
            alpha = cv2.warpAffine(np.ones((side, side), np.float32), place, (width, height))[..., None]
            covered += float(alpha.mean()) / count
            frames.append(ground[index] * (1 - alpha) + front * alpha)
        return np.clip(np.stack(frames), 0, 255).astype(np.uint8), covered


def plain(height: int, width: int, count: int = 6) -> Frames:
    return np.full((count, height, width, 3), 90, np.uint8)
