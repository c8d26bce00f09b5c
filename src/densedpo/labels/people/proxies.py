"""Browser copies of a pair's videos for the labelling page: made once, kept with the hash of copy and original.

Both sides get the same encoding (constant rate, a key frame every 8, playable while loading) and exactly the frames
that the row declares, so that frame i of the page is frame i of training. Nothing in them tells the sides apart but the
picture. pairs/ID/{a,b}.mp4 -> cache/proxies/ID/{a.mp4, b.mp4, proxies.json} -> the media route of the server.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.decode import Video, read_video
from densedpo.clips.encode import view_frames, write_video
from densedpo.clips.window import resample_times
from densedpo.errors import MediaError, ProjectError
from densedpo.observe import track, warn
from densedpo.store.files import read_object, remove_leftovers, replacing_folder, sha256_file, write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row

SIDES = ("a", "b")
_RECIPE = 1  # raised when proxies are made differently, so that older ones are made again
_RECORD = "proxies.json"
_BOX_HEAD = 8


@dataclass(frozen=True)
class Proxy:
    """One side's copy: its file, the SHA-256 and size of its bytes, and the SHA-256 of the original's."""

    path: Path
    sha256: str
    size: int
    source_sha256: str


@dataclass(frozen=True)
class PairProxies:
    """Both copies of a pair: same rate, frame count and picture size (of the copies, in px).

    ``differences`` holds the mean |a - b| of each frame of the originals, in 8-bit levels: what offers of ties rest on.
    """

    fps: float
    num_frames: int
    height: int
    width: int
    sides: dict[str, Proxy]
    differences: tuple[float, ...]


def pair_proxies(project: Project, row: Row) -> PairProxies:
    """Return the browser copies of the pair in ``row``; they are made where missing or older than their originals.

    Raises:
        MediaError: if a side is missing, damaged or shorter than its row declares, or the sides differ in size.
    """
    sources = {side: project.pairs / row["pair_id"] / f"{side}.mp4" for side in SIDES}
    return file_proxies(project.cache / "proxies" / row["pair_id"], sources, row["fps"], row["num_frames"])


def file_proxies(
    folder: Path, sources: Mapping[str, Path], fps: float, num_frames: int, *, same_length: bool = False
) -> PairProxies:
    """Return the browser copies in ``folder`` of two files, ``sources`` by side; made where missing or outdated.

    ``same_length`` fills up the shorter file, so that not even the number of bytes says which picture is calmer.

    Raises:
        MediaError: as ``pair_proxies``.
    """
    expected: dict[str, Any] = {"recipe": _RECIPE, "fps": fps, "num_frames": num_frames}
    expected |= {"same_length": True} if same_length else {}
    expected |= {f"source_{side}": _digest(sources[side]) for side in SIDES}
    record = _read_record(folder)
    if record is None or any(record.get(key) != value for key, value in expected.items()):
        record = _make(folder, sources, expected)
    return _from_record(folder, record)


def prepare_proxies(project: Project, rows: Sequence[Row]) -> list[dict[str, str]]:
    """Make the copies of all ``rows`` with a progress bar; return those that failed as ``{pair_id, reason}``."""
    remove_leftovers(project.cache / "proxies")
    failed = []
    for row in track(rows, "browser copies", total=len(rows)):
        try:
            pair_proxies(project, row)
        except MediaError as error:
            warn(f"pair {row['pair_id']} cannot be shown: {error}")
            failed.append({"pair_id": str(row["pair_id"]), "reason": str(error)})
    return failed


def at_constant_rate(video: Video, fps: float, num_frames: int, name: str) -> NDArray[np.uint8]:
    """Return the frames [num_frames, H, W, 3] shown at k / fps, each the one nearest in time.

    The identity for a video of that rate and count. A last frame may be held for one frame, not longer.

    Raises:
        MediaError: naming the video, if it ends earlier.
    """
    missing = num_frames - video.duration_s * fps
    if missing > 1 + 1e-6:
        raise MediaError(f"{name}: {missing:.1f} frames shorter than its row declares; make the pair again")
    start_s = float(video.timestamps_s[0])
    return np.asarray(video.frames[resample_times(video.timestamps_s, start_s, fps, num_frames)])


def _make(folder: Path, sources: Mapping[str, Path], expected: dict[str, Any]) -> dict[str, Any]:
    fps, num_frames = expected["fps"], expected["num_frames"]

    def read(side: str) -> NDArray[np.uint8]:
        return at_constant_rate(read_video(sources[side]), fps, num_frames, str(sources[side]))

    # two at once: decoder and encoder use one thread each, so that equal frames make equal bytes
    with ThreadPoolExecutor(len(SIDES)) as pool:
        a, b = pool.map(read, SIDES)
    if a.shape != b.shape:
        raise MediaError(f"{folder.name}: its sides differ in size, {a.shape[1:3]} and {b.shape[1:3]}; make it again")
    differences = [float(np.abs(x.astype(np.int16) - y).mean()) for x, y in zip(a, b, strict=True)]
    height, width = view_frames(a[:1]).shape[1:3]
    record = {**expected, "height": height, "width": width, "differences": differences}
    with replacing_folder(folder) as temporary:
        copies = [temporary / f"{side}.mp4" for side in SIDES]
        with ThreadPoolExecutor(len(SIDES)) as pool:
            list(pool.map(lambda path, frames: write_video(path, frames, fps, profile="view"), copies, (a, b)))
        if expected.get("same_length"):
            _fill_up(copies)
        for side, path in zip(SIDES, copies, strict=True):
            record |= {f"sha256_{side}": sha256_file(path), f"size_{side}": path.stat().st_size}
        write_json(temporary / _RECORD, record)
    return record


def _fill_up(paths: Sequence[Path]) -> None:
    """Bring MP4 files to one length by an empty box at the end of each, which players skip (ISO 14496-12, 8.1.2)."""
    sizes = [path.stat().st_size for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        length = max(sizes) + _BOX_HEAD - size
        with path.open("ab") as file:
            file.write(length.to_bytes(4, "big") + b"free" + bytes(length - _BOX_HEAD))
            file.flush()
            os.fsync(file.fileno())


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file; make the pair again") from None


def _read_record(folder: Path) -> dict[str, Any] | None:
    """Return what was made; None where nothing was, or not whole (files of the cache may be deleted at any time)."""
    if not all((folder / name).is_file() for name in ("a.mp4", "b.mp4", _RECORD)):
        return None
    try:
        return read_object(folder / _RECORD)
    except ProjectError:
        return None


def _from_record(folder: Path, record: dict[str, Any]) -> PairProxies:
    sides = {
        side: Proxy(folder / f"{side}.mp4", record[f"sha256_{side}"], record[f"size_{side}"], record[f"source_{side}"])
        for side in SIDES
    }
    shape = {key: record[key] for key in ("fps", "num_frames", "height", "width")}
    return PairProxies(**shape, sides=sides, differences=tuple(record["differences"]))
