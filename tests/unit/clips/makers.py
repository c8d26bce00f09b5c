"""Video files made on the spot, as a stranger's encoder would write them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from densedpo.keys import stream

REAL_CLIPS = Path(__file__).resolve().parents[4] / "shared" / "clips"


def texture(name: str, height: int = 64, width: int = 96, cell_px: int = 12) -> NDArray[np.uint8]:
    """A smooth random picture [H, W, 3], the same for the same name; colours are random every ``cell_px``."""
    rng = stream("tests", "texture", name)
    down_cells, across_cells = height // cell_px + 2, width // cell_px + 2
    coarse = rng.uniform(0, 255, size=(down_cells, across_cells, 3))
    rows, columns = np.arange(height) / cell_px, np.arange(width) / cell_px
    top, left = rows.astype(int), columns.astype(int)
    down, across = (rows - top)[:, None, None], (columns - left)[None, :, None]
    upper = coarse[top][:, left] * (1 - across) + coarse[top][:, left + 1] * across
    lower = coarse[top + 1][:, left] * (1 - across) + coarse[top + 1][:, left + 1] * across
    picture: NDArray[np.uint8] = np.round(upper * (1 - down) + lower * down).astype(np.uint8)
    return picture


def moving(count: int, height: int = 64, width: int = 96, name: str = "moving") -> NDArray[np.uint8]:
    """A picture [T, H, W, 3] that slides slowly to the left, with a frame counter as a bar at the top."""
    wide = texture(name, height, width + 2 * count)
    frames = np.stack([wide[:, 2 * i : 2 * i + width] for i in range(count)])
    for index in range(count):
        frames[index, : height // 8, : max(1, width * (index + 1) // count)] = 255
    return frames


def write_foreign(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    fps: Fraction | int = 8,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    container: str = "mp4",
    times: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode ``frames`` [T, H, W, 3]; ``times`` are timestamps in units of 1 / fps instead of 0, 1, 2 …"""
    with path.open("wb") as file, av.open(file, "w", format=container, container_options=container_options) as out:
        stream_ = out.add_stream(codec, rate=fps, options=options or {})
        assert isinstance(stream_, VideoStream)
        stream_.height, stream_.width = frames.shape[1:3]
        stream_.pix_fmt = pixel_format
        stream_.codec_context.thread_count = 1
        stream_.codec_context.time_base = 1 / Fraction(fps)
        if rotation:
            stream_.set_display_rotation(rotation)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = index if times is None else times[index]
            frame.time_base = 1 / Fraction(fps)
            out.mux(stream_.encode(frame))
        out.mux(stream_.encode(None))
    return path


def write_sound(path: Path, container: str = "mp4") -> Path:
    """Encode a second of silence with no picture."""
    with path.open("wb") as file, av.open(file, "w", format=container) as out:
        stream_ = out.add_stream("aac", rate=48_000, layout="mono")
        assert isinstance(stream_, AudioStream)
        for start in range(0, 48_000, 1024):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 48_000, start
            out.mux(stream_.encode(sound))
        out.mux(stream_.encode(None))
    return path
