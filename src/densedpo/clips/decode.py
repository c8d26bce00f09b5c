"""Read videos that this package wrote itself, in this process and fast.

Files of strangers never come here: they go through ``clips.probe`` and its child process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from densedpo.clips.sniff import expected_bytes
from densedpo.errors import MediaError

_INTERPOLATION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True)
class Video:
    """Decoded frames [T, H, W, 3] 8-bit RGB, their timestamps [T] in seconds, and the frame rate."""

    frames: NDArray[np.uint8]
    timestamps_s: NDArray[np.float64]
    fps: float

    @property
    def duration_s(self) -> float:
        """Length in seconds, the last frame's own duration included."""
        return len(self.frames) / self.fps


def read_video(path: Path) -> Video:
    """Read a video that ``write_video`` made.

    Raises:
        MediaError: if the file is missing, damaged, shorter than it declares or not one of ours.
    """
    try:
        with path.open("rb") as file:
            if expected_bytes(file, "mov") > path.stat().st_size:
                raise MediaError(f"{path}: cut short; make it again")
            file.seek(0)
            return _decode(path, file)
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file; make it again") from None
    except (FFmpegError, OSError) as error:
        raise MediaError(f"{path}: damaged video ({error.strerror}); make it again") from None


def _decode(path: Path, file: BinaryIO) -> Video:
    with av.open(file, "r", format="mp4") as container:
        # PyAV gives a stream of an unknown codec no context at all
        if [s.codec_context is not None for s in container.streams.video] != [True]:
            raise MediaError(f"{path}: not one readable video stream; make the file again")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate = stream.average_rate
        declared = stream.frames
        frames, times = [], []
        converter = VideoReformatter()  # one for all frames: its tables are made once
        for frame in container.decode(stream):
            if frame.pts is None or frame.time_base is None:
                raise MediaError(f"{path}: a frame has no timestamp; make the file again")
            times.append(frame.time)
            frames.append(_to_rgb(frame, converter))
    if not frames or len(frames) != declared or rate is None:
        raise MediaError(f"{path}: {len(frames)} of {declared} declared frames could be read; make it again")
    return Video(np.stack(frames), np.array(times), float(rate))


def _to_rgb(frame: av.VideoFrame, converter: VideoReformatter) -> NDArray[np.uint8]:
    converted = converter.reformat(
        frame,
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=_INTERPOLATION,
        threads=1,
    )
    image: NDArray[np.uint8] = converted.to_ndarray()  # type: ignore[assignment]
    return image
