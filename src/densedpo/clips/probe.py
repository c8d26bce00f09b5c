"""Open files of strangers safely: the parent's side of the decoding child process.

One child serves many files. It is restarted after a death, a missed deadline or a broken answer; one bad file is one
``MediaError`` that names it, and the next file goes on. Frames come back through a temporary file.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.sniff import HEAD_BYTES, sniff
from densedpo.config import ClipSettings
from densedpo.errors import MediaError

# -P: a module of the same name in the current folder must not be loaded
WORKER_COMMAND = (sys.executable, "-P", "-m", "densedpo.clips.worker")
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Scan:
    """What a first pass over a file found.

    Attributes:
        timestamps_s: [T] seconds since the first frame, rising.
        thumbnails: [T, h, w, 3] small 8-bit RGB frames, at most 48 px on the long side.
        height: as shown (upright, square pixels), in pixels.
        width: as shown, in pixels.
        fps: average rate: declared by the file, else counted.
    """

    timestamps_s: NDArray[np.float64]
    thumbnails: NDArray[np.uint8]
    height: int
    width: int
    fps: float

    @property
    def end_s(self) -> float:
        """End of the last frame in seconds, its own duration taken as the median step."""
        return float(self.timestamps_s[-1]) + self.step_s

    @property
    def step_s(self) -> float:
        """Median time between frames in seconds; from the declared rate where there is one frame only."""
        steps = np.diff(self.timestamps_s)
        return float(np.median(steps)) if len(steps) else 1 / self.fps


Reader = TypeVar("Reader", bound="FrameReader")  # typing.Self is beyond the run-time type checks of the tests


class FrameReader:
    """Reads files through a child process. Use as a context manager; the child starts with the first file."""

    def __init__(self, settings: ClipSettings, command: Sequence[str] = WORKER_COMMAND) -> None:
        """Keep the limits of ``settings``; ``command`` starts the child."""
        self._settings = settings
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="densedpo-")
        self._out = Path(self._folder.name) / "frames.rgb"

    def __enter__(self: Reader) -> Reader:
        """Return the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the child and remove its temporary files."""
        self._stop()
        self._folder.cleanup()

    @property
    def child_pid(self) -> int | None:
        """Process id of the running child, None where none runs."""
        return self._child.pid if self._child is not None else None

    def scan(self, path: Path) -> Scan:
        """Return timestamps, small frames and size of a file's best video stream.

        Raises:
            MediaError: naming the file, why it cannot be used and what to do.
        """
        reply = self._ask(path, {"kind": "scan"})
        times = np.array(reply["times_s"], dtype=np.float64)
        shape = (len(times), reply["thumbnail_height"], reply["thumbnail_width"], 3)
        span = float(times[-1])
        fps = reply["fps"] or ((len(times) - 1) / span if span > 0 else 1.0)
        return Scan(times, self._frames(path, shape), reply["height"], reply["width"], fps)

    def extract(self, path: Path, indices: NDArray[np.int64], height: int, width: int) -> NDArray[np.uint8]:
        """Return the frames at ``indices``, resized to cover and cropped to ``height`` x ``width``: [N, H, W, 3].

        Indices may repeat and come in any order.

        Raises:
            MediaError: as ``scan``, and if the file no longer has these frames.
        """
        unique, places = np.unique(indices, return_inverse=True)
        request = {"kind": "extract", "indices": unique.tolist(), "height": height, "width": width}
        if self._ask(path, request)["count"] != len(unique):
            raise MediaError(f"{path}: changed while it was read; repeat the command")
        return self._frames(path, (len(unique), height, width, 3))[places]

    def _frames(self, path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        raw = np.fromfile(self._out, dtype=np.uint8)
        if raw.size != np.prod(shape):
            raise MediaError(f"{path}: decoded {raw.size} bytes where {np.prod(shape)} were expected")
        return raw.reshape(shape)

    def _ask(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        check_regular(path)
        settings = self._settings
        request |= {
            "path": str(path.absolute()),
            "out": str(self._out),
            "max_pixels": settings.max_pixels,
            "max_duration_s": settings.max_duration_s,
            "timeout_s": settings.decode_timeout_s,
        }
        child = self._running(path)
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise self._died(path) from None
        reply = self._reply(child, path, settings.decode_timeout_s)
        if "error" in reply:
            raise MediaError(f"{path}: {reply['error']}")
        return reply

    def _running(self, path: Path) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self._stop()
        if self._child is None:
            self._child = subprocess.Popen(
                [*self._command, str(self._settings.decode_memory_mb)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # the child finds the package where this process found it, also when it is not installed
                env=os.environ | {"PYTHONPATH": os.pathsep.join([_PACKAGE_ROOT, *_inherited_path()])},
            )
            self._reply(self._child, path, _START_TIMEOUT_S)
        return self._child

    def _reply(self, child: subprocess.Popen[bytes], path: Path, timeout_s: float) -> dict[str, Any]:
        """Read one line of JSON within ``timeout_s``, or stop the child and say what happened."""
        assert child.stdout is not None
        deadline = time.monotonic() + timeout_s
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._stop()
                    raise MediaError(
                        f"{path}: not decoded within {timeout_s:g} s; shorten it or raise clips.decode_timeout_s"
                    )
                piece = os.read(child.stdout.fileno(), 1 << 20)
                if not piece:
                    raise self._died(path)
                line += piece
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _died(self, path: Path) -> MediaError:
        assert self._child is not None
        try:
            code = self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        self._stop()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return MediaError(f"{path}: the decoder broke down on it ({how}); re-encode or leave out this file")

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def _inherited_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


def check_regular(path: Path) -> None:
    """Check that ``path``, symbolic links followed, is a regular file, without opening it.

    Raises:
        MediaError: if it is missing, a folder, a FIFO, a device or a socket.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(mode):
        raise MediaError(f"{path}: not a regular file; only video files are read")


def looks_like_video(path: Path) -> bool:
    """Say whether a regular file starts like a known video container."""
    try:
        with path.open("rb") as file:
            return sniff(file.read(HEAD_BYTES)) is not None
    except OSError:
        return False
