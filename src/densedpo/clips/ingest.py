"""One video file to clips: scan, split at cuts, window, resample, resize, crop and write as MASTER.

The heart of ``clips add``. A finished file leaves a marker in ``clips/sources``, written last; while it stands for the
same bytes, geometry, caption and settings the file is not decoded again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.captions import Captions
from densedpo.clips.cuts import find_shots
from densedpo.clips.encode import write_video
from densedpo.clips.geometry import ClipGeometry
from densedpo.clips.probe import FrameReader, Scan, check_regular
from densedpo.clips.window import Window, resample_times, shot_windows
from densedpo.config import ClipSettings
from densedpo.errors import MediaError
from densedpo.keys import content_id
from densedpo.store.files import read_json, replacing_folder, sha256_file, write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row

Outcome = Literal["accepted", "skipped", "duplicate"]
MARKERS = "sources"  # folder of the clips' that says which files are finished

# Raw frames taken from one file at a time: bounds memory and temporary disk, whatever the file
_GROUP_BYTES = 512 * 2**20


@dataclass
class Ingest:
    """Turns files into clips of one geometry; remembers the digests it met, so that equal files count once."""

    project: Project
    captions: Captions
    geometry: ClipGeometry
    settings: ClipSettings
    segment_s: float
    reader: FrameReader

    def __post_init__(self) -> None:
        """Start with no digest seen."""
        self._seen: set[str] = set()

    def add(self, file: Path) -> tuple[Outcome, int]:
        """Add one file; return what happened and how many clips were written.

        Raises:
            MediaError: naming the file, why it cannot be used and what to do.
        """
        check_regular(file)
        digest = _digest(file)
        if digest in self._seen:
            return "duplicate", 0
        caption = self.captions.of(file)
        marker = self.project.clips / MARKERS / f"{content_id(digest, self.geometry.as_dict())}.json"
        made_with = {
            "source_sha256": digest,
            "caption": caption,
            "geometry": self.geometry.as_dict(),
            "cut_threshold": self.settings.cut_threshold,
            "max_windows": self.settings.max_windows,
            "max_duration_s": self.settings.max_duration_s,
            "segment_s": self.segment_s,
        }
        before = read_json(marker) if marker.exists() else None
        if before is not None and self._finished(before, made_with):
            self._seen.add(digest)
            return "skipped", 0
        clip_ids = self._write_clips(file, digest, caption)
        for stale in set(before["clips"]) - set(clip_ids) if before is not None else ():
            shutil.rmtree(self.project.clips / stale, ignore_errors=True)
        write_json(marker, {"made_with": made_with, "clips": clip_ids})
        self._seen.add(digest)
        return "accepted", len(clip_ids)

    def _finished(self, marker: dict[str, Any], made_with: dict[str, Any]) -> bool:
        whole = all((self.project.clips / clip_id / "row.json").exists() for clip_id in marker["clips"])
        return whole and bool(marker["made_with"] == made_with)

    def _write_clips(self, file: Path, digest: str, caption: str) -> list[str]:
        scan = self.reader.scan(file)
        windows = self._windows(file, scan)
        clip_ids = []
        for group in _groups(windows, self.geometry):
            wanted = np.concatenate([indices for _, indices in group])
            frames = self.reader.extract(file, wanted, self.geometry.height, self.geometry.width)
            place = 0
            for window, indices in group:
                taken = frames[place : place + len(indices)]
                place += len(indices)
                clip_ids.append(self._write_clip(file, digest, caption, scan, window, taken))
        return clip_ids

    def _windows(self, file: Path, scan: Scan) -> list[tuple[Window, NDArray[np.int64]]]:
        """Return every window of a file with the indices of its frames, which stay inside the window's shot."""
        times = np.append(scan.timestamps_s, scan.end_s)
        shots = find_shots(scan.thumbnails, scan.step_s, self.settings.cut_threshold)
        windows = []
        for start, stop in shots:
            bounds_s = float(times[start]), float(times[stop])
            for window in shot_windows(*bounds_s, self.geometry, self.settings.max_windows, self.segment_s):
                indices = resample_times(scan.timestamps_s, window.start_s, self.geometry.fps, window.num_frames)
                windows.append((window, np.clip(indices, start, stop - 1)))
        if not windows:
            longest_s = max((float(times[stop] - times[start]) for start, stop in shots), default=0.0)
            raise MediaError(
                f"{file}: shorter than one segment: its longest shot lasts {longest_s:.2f} s, a segment "
                f"{self.segment_s:g} s at {self.geometry.fps:g} fps; use longer clips or a smaller label.segment_s"
            )
        return windows

    def _write_clip(
        self, file: Path, digest: str, caption: str, scan: Scan, window: Window, frames: NDArray[np.uint8]
    ) -> str:
        start_s = round(window.start_s, 6)
        clip_id = content_id(digest, start_s, window.num_frames, self.geometry.as_dict())
        with replacing_folder(self.project.clips / clip_id) as folder:
            write_video(folder / "clip.mp4", frames, self.geometry.fps, profile="master")
            row: Row = {
                "clip_id": clip_id,
                "path": storable(file),
                "source_sha256": digest,
                "caption": caption,
                "start_s": start_s,
                "fps": self.geometry.fps,
                "num_frames": window.num_frames,
                "height": self.geometry.height,
                "width": self.geometry.width,
                "duration_s": window.num_frames / self.geometry.fps,
                "source_fps": scan.fps,
                "source_height": scan.height,
                "source_width": scan.width,
                "sha256": sha256_file(folder / "clip.mp4"),
            }
            write_json(folder / "row.json", row)
        return clip_id


def storable(path: Path) -> str:
    """Return a path as text that UTF-8 can hold; bytes that are no UTF-8 are written as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Return ``text`` with everything unprintable escaped: a file's name may hold line breaks."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _digest(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError as error:
        raise MediaError(f"{file}: cannot be read ({error.strerror})") from None


def _groups(
    windows: list[tuple[Window, NDArray[np.int64]]], geometry: ClipGeometry
) -> Iterator[list[tuple[Window, NDArray[np.int64]]]]:
    size = max(1, _GROUP_BYTES // (3 * geometry.height * geometry.width * geometry.num_frames))
    for start in range(0, len(windows), size):
        yield windows[start : start + size]
