"""The child process in which files of strangers are opened and decoded. Started and watched by ``clips.probe``.

Reads one JSON request a line from standard input and answers one JSON line on standard output. Frames go as raw RGB
into the file that the request names. Two kinds of request: ``scan`` (all timestamps, small frames for finding cuts)
and ``extract`` (chosen frames at the wanted size). Nothing but numpy and PyAV is loaded here; memory is capped.

Stated limits: HDR is not tone-mapped, interlaced frames are not separated, alpha is dropped. Formats that declare no
length (MPEG streams, FLV, Ogg, GIF, raw) give what is there: a cut at a frame's border cannot be noticed in them.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import ColorRange, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from densedpo.clips.sniff import HEAD_BYTES, expected_bytes, sniff
from densedpo.clips.window import centre_crop, cover_size

THUMBNAIL_PX = 48
MAX_FRAMES = 200_000
# The file itself is handed over open, so no protocol is needed at all: nothing can be opened by name or URL
NO_OTHER_FILES = {"protocol_whitelist": "none"}
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class RefusedError(Exception):
    """The file cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class Limits:
    """What is accepted: pixels a frame, and seconds that are read."""

    max_pixels: int
    max_duration_s: float


def main() -> None:
    """Serve requests until standard input ends."""
    serve(_answer)


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer one JSON request a line, with memory capped at the first argument's megabytes above what is loaded.

    A file that cannot be used, whatever the reason, gives a reply with ``error``.
    """
    _limit_memory(int(sys.argv[1]))
    _say({"ready": os.getpid()})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # if the parent is gone, nobody else stops a decoder that hangs; the default action ends this process
        signal.setitimer(signal.ITIMER_REAL, 2 * float(request["timeout_s"]) + 10)
        try:
            reply = answer(request)
        except RefusedError as error:
            reply = {"error": str(error)}
        except MemoryError:
            reply = {"error": f"needs more than {sys.argv[1]} MB to decode; raise clips.decode_memory_mb"}
        except FFmpegError as error:
            reply = {"error": f"damaged or unsupported ({error.strerror})"}
        except OSError as error:
            reply = {"error": f"cannot be read ({error.strerror})"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say(reply)


def _say(reply: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(reply, allow_nan=False) + "\n")
    sys.stdout.flush()


def _limit_memory(budget_mb: int) -> None:
    """Cap the address space at what is mapped now plus ``budget_mb``; where the system cannot, the deadline remains."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + budget_mb * 2**20, resource.RLIM_INFINITY))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    limits = limits_of(request)
    with _opened(Path(request["path"])) as file, Path(request["out"]).open("wb") as out:
        if request["kind"] == "scan":
            return _scan(file, out, limits)
        return _extract(file, out, limits, request["indices"], int(request["height"]), int(request["width"]))


def limits_of(request: dict[str, Any]) -> Limits:
    """Return the limits that every request brings."""
    return Limits(int(request["max_pixels"]), float(request["max_duration_s"]))


def shown_frames(
    path: Path, limits: Limits, size: Callable[[int, int], tuple[int, int]]
) -> Iterator[tuple[float, tuple[int, int], NDArray[np.uint8]]]:
    """Yield (seconds since the first frame, (height, width) as meant to be seen, picture at ``size`` of that).

    Raises:
        RefusedError: if the file cannot be used, at once or after some frames.
    """
    with _opened(path) as file:
        with _container(file) as (_, stream):
            aspect = _aspect(stream)
        file.seek(0)
        for time_s, frame in _frames(file, limits):
            shown = _shown_size(frame, aspect)
            yield time_s, shown, _picture(frame, *size(*shown))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    # non-blocking, so that opening a FIFO put in the file's place cannot hang
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise RefusedError("not a regular file")
        yield file


@contextmanager
def _container(file: BinaryIO) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """Open ``file`` with the demuxer its content calls for, and choose its best video stream."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise RefusedError("empty (0 bytes)")
    kind = sniff(file.read(HEAD_BYTES))
    if kind is None:
        raise RefusedError("not a known video format")
    expected = expected_bytes(file, kind)
    if expected > size:
        raise RefusedError(f"cut short: {size} of {expected} bytes are there; fetch it again")
    file.seek(0)
    with av.open(file, "r", format=kind, container_options=NO_OTHER_FILES, metadata_errors="replace") as container:
        moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        # PyAV gives a stream of an unknown codec no context at all
        streams = [s for s in moving if s.codec_context is not None]  # type: ignore[redundant-expr]
        if not streams:
            raise RefusedError("has no video stream" if not moving else "its video codec is unknown; re-encode it")
        yield container, max(streams, key=lambda s: (s.width * s.height, s.duration or 0, -s.index))


def _frames(file: BinaryIO, limits: Limits) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield (seconds since the first frame, frame) in display order, checking sizes before and while decoding."""
    with _container(file) as (container, stream):
        _check_size(stream.width, stream.height, limits)
        if stream.frames > MAX_FRAMES and (stream.duration is None or _declared_s(stream) <= limits.max_duration_s):
            raise RefusedError(f"declares {stream.frames} frames, more than {MAX_FRAMES}")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = min(4, os.cpu_count() or 1)
        step_s = float(1 / (stream.average_rate or stream.guessed_rate or Fraction(25)))
        first_s = last_s = None
        count = 0
        for frame in container.decode(stream):
            _check_size(frame.width, frame.height, limits)
            if frame.is_corrupt:
                if count == 0:  # a recording that starts between key frames
                    continue
                raise RefusedError(f"damaged after {count} frames")
            if frame.pts is not None and frame.time_base is not None:
                now_s = float(frame.pts * frame.time_base)
            else:
                now_s = 0.0 if last_s is None else last_s + step_s
            first_s = now_s if first_s is None else first_s
            # display order is the decoder's; a clock that runs backwards is held still
            last_s = now_s if last_s is None else max(now_s, last_s)
            if last_s - first_s >= limits.max_duration_s:
                return
            count += 1
            if count > MAX_FRAMES:
                raise RefusedError(f"has more than {MAX_FRAMES} frames in its first {limits.max_duration_s:g} s")
            yield last_s - first_s, frame
        if count < 0.9 * stream.frames - 2 or (count == 0 and stream.frames):
            raise RefusedError(f"cut short: {count} of {stream.frames} declared frames could be decoded")
        if count == 0:
            raise RefusedError("has no frame that can be decoded")


def _declared_s(stream: VideoStream) -> float:
    return float((stream.duration or 0) * (stream.time_base or 0))


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise RefusedError(f"has no usable frame size ({width} x {height})")
    if width * height > limits.max_pixels:
        raise RefusedError(f"{width} x {height} px is above clips.max_pixels ({limits.max_pixels})")


def _shown_size(frame: av.VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Return (height, width) as meant to be seen: square pixels, turned upright."""
    height, width = frame.height, max(1, round(frame.width * aspect))
    return (width, height) if frame.rotation % 180 else (height, width)


def _aspect(stream: VideoStream) -> Fraction:
    ratio = stream.sample_aspect_ratio or Fraction(1)
    return ratio if Fraction(1, 8) <= ratio <= 8 else Fraction(1)


def _picture(frame: av.VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
    """Return the frame upright, as RGB [height, width, 3]."""
    quarter_turns = round(frame.rotation / 90) % 4
    stored = (width, height) if quarter_turns % 2 else (height, width)
    image = frame.to_ndarray(
        format="rgb24",
        height=stored[0],
        width=stored[1],
        src_color_range=frame.color_range,
        dst_color_range=ColorRange.JPEG,
        interpolation=(Interpolation.AREA if stored[0] < frame.height else Interpolation.BICUBIC) | _EXACT,
        threads=1,
    )
    return np.ascontiguousarray(np.rot90(image, quarter_turns))


def _scan(file: BinaryIO, out: BinaryIO, limits: Limits) -> dict[str, Any]:
    times_s: list[float] = []
    small = shown = (0, 0)
    with _container(file) as (_, stream):
        aspect, rate = _aspect(stream), stream.average_rate or stream.guessed_rate
    file.seek(0)
    for time_s, frame in _frames(file, limits):
        if not times_s:
            shown = _shown_size(frame, aspect)
            scale = min(1.0, THUMBNAIL_PX / max(shown))
            small = (max(1, round(shown[0] * scale)), max(1, round(shown[1] * scale)))
        times_s.append(time_s)
        out.write(_picture(frame, *small).tobytes())
    return {
        "times_s": times_s,
        "height": shown[0],
        "width": shown[1],
        "thumbnail_height": small[0],
        "thumbnail_width": small[1],
        "fps": float(rate) if rate else 0.0,
    }


def _extract(
    file: BinaryIO, out: BinaryIO, limits: Limits, indices: list[int], height: int, width: int
) -> dict[str, Any]:
    """Write the frames at ``indices`` (rising) that exist, filled and cropped to height x width; return how many."""
    with _container(file) as (_, stream):
        aspect = _aspect(stream)
    file.seek(0)
    wanted = set(indices)
    count = 0
    for index, (_, frame) in enumerate(_frames(file, limits)):
        if index in wanted:
            size = cover_size(*_shown_size(frame, aspect), height, width)
            out.write(centre_crop(_picture(frame, *size), height, width).tobytes())
            count += 1
        if count == len(wanted):
            break
    return {"count": count}


if __name__ == "__main__":
    main()
