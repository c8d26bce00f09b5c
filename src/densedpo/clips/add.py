"""The stage ``clips add``: video files of any kind become clips of the model's geometry, with captions.

Repeating the command skips finished files and redoes half-written ones. A file set aside is one warning line, counted
in the summary and tried again next time; the rest goes on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from densedpo.clips.captions import find_table, read_captions
from densedpo.clips.geometry import ClipGeometry
from densedpo.clips.ingest import MARKERS, Ingest, one_line, storable
from densedpo.clips.probe import FrameReader
from densedpo.clips.sources import find_files
from densedpo.config import ClipSettings
from densedpo.errors import MediaError
from densedpo.observe import say, track, warn
from densedpo.store.files import remove_leftovers
from densedpo.store.project import Project
from densedpo.store.tables import collect_rows, write_table

CLIPS_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("source_sha256", pa.string()),
        ("caption", pa.string()),
        ("start_s", pa.float64()),
        ("fps", pa.float64()),
        ("num_frames", pa.int64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("duration_s", pa.float64()),
        ("source_fps", pa.float64()),
        ("source_height", pa.int64()),
        ("source_width", pa.int64()),
        ("sha256", pa.string()),
    ]
)


@dataclass
class AddSummary:
    """What one call of ``add_clips`` did.

    Attributes:
        files: video files found.
        accepted: files of which clips were written now.
        clips: clips written now.
        skipped_existing: files finished by an earlier call.
        duplicates: files with the bytes of another one of this call.
        rejected: files set aside, each with ``path`` and ``reason``.
        captions_without_file: paths in the captions table that lead to no file.
        total_clips: clips in the project's table after the call.
    """

    files: int = 0
    accepted: int = 0
    clips: int = 0
    skipped_existing: int = 0
    duplicates: int = 0
    rejected: list[dict[str, str]] = field(default_factory=list)
    captions_without_file: list[str] = field(default_factory=list)
    total_clips: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as a JSON-able dictionary."""
        return asdict(self)


def add_clips(
    project: Project,
    sources: list[Path],
    captions: Path | None,
    geometry: ClipGeometry,
    settings: ClipSettings,
    segment_s: float,
) -> AddSummary:
    """Add the videos below ``sources`` to ``project`` as clips of ``geometry``.

    Args:
        project: where clips go.
        sources: files and folders.
        captions: table of captions; if None, ``captions.csv``, ``.jsonl`` or ``.parquet`` in a source folder, or text
            files beside the videos. Where there is no caption at all, every clip gets the empty one.
        geometry: rate, frame count and size that the model takes.
        settings: limits, cut threshold and windows per shot.
        segment_s: length of a label segment; shorter shots are left out.

    Raises:
        ProjectError: if a source or the captions table is missing or unreadable.
        MediaError: if there is no video file, or none of them can be used.
    """
    made_by_us = (project.clips, project.pairs, project.runs, project.evaluations, project.report)
    files = find_files(sources, excluded=made_by_us)
    if captions is None and (captions := find_table(sources)) is not None:
        say(one_line(f"captions from {captions}"))
    known = read_captions(captions, [source for source in sources if source.is_dir()])
    known.needed = bool(known.by_file) or any(file.with_suffix(".txt").is_file() for file in files)
    if not known.needed:
        warn("no captions at all: every clip gets the empty one; give --captions TABLE so that the model knows more")
    summary = AddSummary(files=len(files), captions_without_file=known.missing_files())
    for name in summary.captions_without_file:
        warn(one_line(f"{captions}: caption for {name!r}, but there is no such file; correct its path"))
    remove_leftovers(project.clips)
    remove_leftovers(project.clips / MARKERS)
    with FrameReader(settings) as reader:
        ingest = Ingest(project, known, geometry, settings, segment_s, reader)
        for file in track(files, "adding clips"):
            try:
                outcome, count = ingest.add(file)
            except MediaError as error:
                warn(one_line(str(error)))
                reason = one_line(str(error).removeprefix(f"{file}: "))
                summary.rejected.append({"path": storable(file), "reason": reason})
                continue
            summary.accepted += outcome == "accepted"
            summary.skipped_existing += outcome == "skipped"
            summary.duplicates += outcome == "duplicate"
            summary.clips += count
    rows = collect_rows(project.clips)
    if rows:
        write_table(project.clips_table, list(rows.values()), CLIPS_SCHEMA)
    summary.total_clips = len(rows)
    if len(summary.rejected) == len(files):
        first = summary.rejected[0]
        raise MediaError(
            f"none of {len(files)} video files can be used; the first: {one_line(first['path'])}: {first['reason']}"
        )
    return summary
