"""``evaluate --videos DIR``: scores of any folder of video files, with no model at all.

DIR -> a process a core, each decoding and scoring file by file -> cache/video-scores/ID.json
    -> evals/NAME/scores.parquet (a row a file), segments.parquet (a row a segment)

A finished file is known by its bytes and by what the scores depend on, so a killed run repeats only what was in hand.
A file that cannot be used is named and counted; the rest goes on.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from densedpo import __version__
from densedpo.clips.ingest import one_line, storable
from densedpo.clips.probe import check_regular
from densedpo.clips.sources import find_files
from densedpo.config import ClipSettings
from densedpo.errors import MediaError
from densedpo.evaluation.video.reader import VideoReader
from densedpo.evaluation.video.summary import ORDER, VERSION
from densedpo.keys import content_id
from densedpo.observe import track, warn
from densedpo.store.files import read_object, remove_leftovers, sha256_file, write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row, write_table

_SHAPE = ("frames", "duration_s", "height", "width")
_WHOLE_NUMBERS = frozenset({"frames", "height", "width", "cuts", "segment"})
_YES_NO = frozenset({"motion_in_range"})


@dataclass
class FolderSummary:
    """What was scored.

    Attributes:
        files: video files found below the folder, hidden ones left out.
        scored: files scored now.
        known: files whose bytes were scored before.
        rejected: files set aside, each with ``path`` and ``reason``.
        out_of_range: scored files whose motion is faster than flow can follow.
        scores: table of the scores, a row a file.
        segments: table of the same scores, a row a segment.
        videos: one object a file, in order of path: ``path``, size, length and scores; speeds in px of the file.
    """

    files: int = 0
    scored: int = 0
    known: int = 0
    rejected: list[dict[str, str]] = field(default_factory=list)
    out_of_range: int = 0
    scores: str = ""
    segments: str = ""
    videos: list[Row] = field(default_factory=list)


def score_folder(
    project: Project, folder: Path, settings: ClipSettings, segment_s: float, name: str, workers: int | None = None
) -> FolderSummary:
    """Score every video file below ``folder``, subfolders included.

    Args:
        project: where scores go.
        folder: the folder, or a single file.
        settings: limits of decoding, and the threshold of a cut.
        segment_s: length of a segment of the series.
        name: name of the evaluation.
        workers: processes; one a core by default.

    Raises:
        ProjectError: if there is no such folder.
        MediaError: if there is no video file, or none of them can be used.
    """
    target = project.evaluation(name)
    files = sorted(find_files([folder]))
    cache = project.cache / "video-scores"
    remove_leftovers(cache)
    summary = FolderSummary(files=len(files))
    found: dict[Path, dict[str, Any]] = {}
    with _Scorers(settings, segment_s, cache, min(workers or _cores(), len(files))) as scorers:
        jobs = {scorers.submit(file): file for file in files}
        for job in track(as_completed(jobs), "scoring videos", total=len(jobs)):
            file = jobs[job]
            try:
                known, found[file] = job.result()
            except MediaError as error:
                warn(one_line(str(error)))
                reason = one_line(str(error).removeprefix(f"{file}: "))
                summary.rejected.append({"path": storable(file), "reason": reason})
                continue
            summary.known += known
            summary.scored += not known
    summary.rejected.sort(key=lambda item: item["path"])
    if not found:
        first = summary.rejected[0]
        raise MediaError(f"none of {len(files)} video files can be used; the first: {first['path']}: {first['reason']}")
    summary.videos = [_row(file, found[file], found[file]["scores"]) for file in files if file in found]
    series = [
        _row(file, {"segment": index}, scores)
        for file in files
        if file in found
        for index, scores in enumerate(found[file]["segments"])
    ]
    summary.out_of_range = sum(not video["motion_in_range"] for video in summary.videos)
    for title, rows in (("scores", summary.videos), ("segments", series)):
        write_table(target / f"{title}.parquet", rows, _schema(rows[0]))
        setattr(summary, title, str(target / f"{title}.parquet"))
    return summary


class _Scorers:
    """A child process for each of ``count`` threads; a thread takes any that is idle."""

    def __init__(self, settings: ClipSettings, segment_s: float, cache: Path, count: int) -> None:
        self._settings, self._segment_s, self._cache = settings, segment_s, cache
        self._pool = ThreadPoolExecutor(count, "score")
        self._stack = ExitStack()
        self._idle: SimpleQueue[VideoReader] = SimpleQueue()
        for _ in range(count):
            reader = VideoReader(settings)
            self._stack.enter_context(reader)
            self._idle.put(reader)

    def __enter__(self) -> _Scorers:
        return self

    def __exit__(self, *_: object) -> None:
        # an interrupt ends the children first: else it would wait for the films they are at
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._stack.close()
        self._pool.shutdown()

    def submit(self, file: Path) -> Future[tuple[bool, dict[str, Any]]]:
        return self._pool.submit(self._score, file)

    def _score(self, file: Path) -> tuple[bool, dict[str, Any]]:
        """Return whether the scores of ``file`` were there already, and what ``VideoReader.score`` returns."""
        check_regular(file)
        try:
            digest = sha256_file(file)
        except OSError as error:
            raise MediaError(f"{file}: cannot be read ({error.strerror})") from None
        made_with = [__version__, VERSION, self._segment_s, self._settings.cut_threshold, self._settings.max_duration_s]
        stored = self._cache / f"{content_id(digest, *made_with)}.json"
        if stored.exists():
            return True, read_object(stored)
        reader = self._idle.get()
        try:
            scored = reader.score(file, self._segment_s)
        finally:
            self._idle.put(reader)
        write_json(stored, scored)
        return False, scored


def _row(file: Path, more: dict[str, Any], scores: dict[str, float]) -> Row:
    row: Row = {"path": storable(file)} | {name: more[name] for name in (*_SHAPE, "segment") if name in more}
    row |= {name: scores[name] for name in ORDER if name in scores}  # a stored file has its keys in another order
    return (
        row
        | {name: int(row[name]) for name in _WHOLE_NUMBERS & set(row)}
        | {name: bool(row[name]) for name in _YES_NO & set(row)}
    )


def _schema(row: Row) -> pa.Schema:
    kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_(), float: pa.float64()}
    return pa.schema([(name, kinds[type(value)]) for name, value in row.items()])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
