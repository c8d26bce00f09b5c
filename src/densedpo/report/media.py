"""The videos of the report: browser copies of our master files, each with a poster for print and slow machines.

Stands between the project's MASTER videos (pairs, clips, evaluation samples) and the page's players. A file that cannot
be read is named and left out; the page says so in its place.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from densedpo.clips.decode import read_video
from densedpo.clips.encode import write_video
from densedpo.errors import MediaError
from densedpo.keys import content_id
from densedpo.observe import warn
from densedpo.store.files import replacing, sha256_file

MEDIA = "media"
_TINY_PX = 128  # below this short side the page shows square pixels instead of blur
_POSTER_QUALITY = 90
_LOOK = 1  # raised when view copies are made differently, so that older ones are not taken over


@dataclass(frozen=True)
class Shown:
    """One video as the page needs it; paths are relative to the report folder."""

    src: str
    poster: str
    frames: int
    fps: float
    tiny: bool

    @property
    def duration_s(self) -> float:
        """Length in seconds, the last frame's own duration included."""
        return self.frames / self.fps


@dataclass(frozen=True)
class Shelf:
    """Where the view copies of one report go; asking twice for the same file copies it once.

    Copies are named by content: those that an earlier report in ``previous`` already holds are taken over.
    """

    folder: Path
    previous: Path
    _done: dict[Path, Shown | None] = field(default_factory=dict)

    def show(self, source: Path) -> Shown | None:
        """Copy ``source`` for the browser; None (with one warning) where the file is missing or unreadable."""
        if source not in self._done:
            self._done[source] = self._copy(source)
        return self._done[source]

    def _copy(self, source: Path) -> Shown | None:
        if not source.is_file():
            warn(f"{source}: no such video; the report leaves it out")
            return None
        try:
            video = read_video(source)
        except MediaError as error:
            warn(f"{error}; the report leaves it out")
            return None
        name = f"{MEDIA}/{content_id('report/media', _LOOK, sha256_file(source))}"
        names = f"{name}.mp4", f"{name}.jpg"
        if all((self.previous / known).is_file() for known in names):
            for known in names:
                with replacing(self.folder / known) as temporary:
                    shutil.copyfile(self.previous / known, temporary)
        else:
            write_video(self.folder / names[0], video.frames, video.fps, profile="view")
            _write_poster(self.folder / names[1], video.frames[len(video.frames) // 2])
        tiny = min(video.frames.shape[1:3]) < _TINY_PX
        return Shown(*names, len(video.frames), float(video.fps), tiny)


def _write_poster(path: Path, frame: NDArray[np.uint8]) -> None:
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        _POSTER_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    written, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    assert written, path
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())
