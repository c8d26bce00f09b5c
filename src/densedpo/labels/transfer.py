"""Answers in and out: JSON lines, Parquet, Label Studio, datasets and the VideoAlign CSV both ways, plain CSV in.

An export holds what counts now, in an order that depends on nothing but the answers, so export, import, export gives
the same file. An import is taken whole or not at all: every row is checked against the pairs first.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from densedpo.errors import ConfigError, LabelError, ProjectError
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent, event_from
from densedpo.labels.foreign import (
    VIDEOALIGN_ANSWERS,
    Numbered,
    from_videoalign,
    read_dataset,
    read_label_studio,
    write_dataset,
    write_label_studio,
)
from densedpo.labels.gold import write_gold
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.selection import selected_answers
from densedpo.labels.snapshot import snapshot_rows
from densedpo.labels.store import LabelStore, current_answers
from densedpo.store.files import replacing, write_text
from densedpo.store.project import Project
from densedpo.store.rows import ROW_SUFFIXES, read_rows
from densedpo.store.tables import Row, read_table, write_table

ExportFormat = Literal["jsonl", "parquet", "videoalign", "label_studio", "datasets"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

_COLUMNS = pa.schema(
    {
        "pair_id": pa.string(),
        "segment": pa.int64(),
        "answer": pa.string(),
        "outcome": pa.string(),
        "source": pa.string(),
        "author": pa.string(),
        "segment_s": pa.float64(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "confidence": pa.float64(),
        "reason": pa.string(),
        "raw": pa.string(),
        "settings_digest": pa.string(),
        "trusted": pa.bool_(),
        "task": pa.string(),
        "tags": pa.string(),
        "note": pa.string(),
        "dwell_s": pa.float64(),
        "shown_first": pa.string(),
        "offered": pa.bool_(),
    }
)
_NEEDED = ("pair_id", "segment", "answer")
_VIDEOALIGN_COLUMNS = ("path_A", "path_B", "prompt", "fps_A", "num_frames_A", "fps_B", "num_frames_B", "Overall")
_NAMED_AT_MOST = 5
_OPTIONAL = ("answer", "confidence", "dwell_s", "shown_first")


@dataclass(frozen=True)
class ImportSummary:
    """Rows read, events added to the store, and rows that said what already counted."""

    rows: int
    added: int
    unchanged: int


def export_labels(
    project: Project, path: Path, form: ExportFormat, source: str | None = None, author: str | None = None
) -> int:
    """Write what counts now to ``path``; return the number of rows.

    ``jsonl``, ``parquet``, ``label_studio`` and ``datasets`` (a folder) hold every answer with every field, of one
    source kind if ``source`` is given, of one author if ``author`` is. ``videoalign`` holds one row
    a pair with a whole-clip label (own or derived from its segments) as Overall: A, B or same; clips nobody could judge
    are left out, and paths are relative to the project.

    Raises:
        LabelError: if there is nothing to export, the format is unknown, or sources would be mixed in ``videoalign``.
    """
    if form not in EXPORT_FORMATS:
        raise LabelError(f"format: {form!r} is unknown; choose one of {', '.join(EXPORT_FORMATS)}")
    if form == "videoalign":
        return _export_videoalign(project, path, source, author)
    events = [
        event
        for event in current_answers(project.label_store)
        if source in (None, event.source) and author in (None, event.author)
    ]
    if not events:
        raise LabelError(f"{project.labels_database}: no answers to export; run `densedpo label judge` first")
    rows = [asdict(event) for event in sorted(events, key=_order)]
    if form in ("label_studio", "datasets"):
        pairs = read_table(project.need(project.pairs_table, "densedpo pairs make"))
        if form == "datasets":
            write_dataset(path, rows, _COLUMNS, pairs)
        else:
            write_label_studio(path, sorted(events, key=_order), pairs)
    elif form == "jsonl":
        write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
    else:
        write_table(path, rows, _COLUMNS)
    return len(rows)


def _order(event: AnswerEvent) -> tuple[str, str, str, float, int, str]:
    return event.pair_id, event.source, event.author, event.segment_s, event.segment, event.task


def _export_videoalign(project: Project, path: Path, source: str | None, author: str | None) -> int:
    pairs = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    by_id = {pair["pair_id"]: pair for pair in pairs}
    rows = []
    for labels in snapshot_rows(pairs, selected_answers(project, pairs, source, None, author)):
        pair = by_id[labels["pair_id"]]
        if labels["clip_answer"] not in VIDEOALIGN_ANSWERS:
            continue
        files = [f"{project.pairs.name}/{pair['pair_id']}/{side}.mp4" for side in ("a", "b")]
        shape = [pair["fps"], pair["num_frames"]] * 2
        rows.append([*files, pair["caption"], *shape, VIDEOALIGN_ANSWERS[labels["clip_answer"]]])
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_VIDEOALIGN_COLUMNS)
        writer.writerows(rows)
    return len(rows)


def import_labels(
    project: Project, path: Path, segment_s: float, author: str = "import", *, gold: bool = False
) -> ImportSummary:
    """Append the answers of a file or dataset folder; whole or not at all.

    Files are .jsonl, .parquet, .csv (also VideoAlign's) and .json (Label Studio's). With ``gold``, the answers become
    those that people are measured by, in place of earlier ones, and no votes.

    Columns pair_id, segment (-1: the whole clip) and answer are needed; every other field of an answer may be there.
    What is not there: source person, the given ``author`` and ``segment_s``, and times from the grid.

    Raises:
        LabelError: naming file, line and field of what is wrong: unknown pairs, segments outside their clip, unknown
            answers or columns.
    """
    pairs = {row["pair_id"]: row for row in read_table(project.need(project.pairs_table, "densedpo pairs make"))}
    if not path.exists():
        raise LabelError(f"{path}: no such file; name a .jsonl, .parquet, .csv or .json file of answers")
    reader = _read_dataset if path.is_dir() else _READERS.get(path.suffix.lower())
    if reader is None:
        raise LabelError(f"{path}: unknown kind of file; expected one of {', '.join(_READERS)}")
    rows = list(reader(path))
    if not rows:
        raise LabelError(f"{path}: no answers in it")
    for line, row in rows:
        _check_columns(path, line, row)
    strangers = {str(row["pair_id"]): line for line, row in reversed(rows) if str(row["pair_id"]) not in pairs}
    if strangers:
        named = [f"{pair_id!r} (line {line})" for pair_id, line in sorted(strangers.items(), key=lambda item: item[1])]
        more = f" and {len(named) - _NAMED_AT_MOST} more" if len(named) > _NAMED_AT_MOST else ""
        raise LabelError(
            f"{path}: unknown pair {', '.join(named[:_NAMED_AT_MOST])}{more}; only pairs in {project.pairs_table} "
            "can be labelled"
        )
    defaults = {"source": "person", "author": author, "segment_s": segment_s}
    events = [_event(path, line, row, pairs[str(row["pair_id"])], defaults) for line, row in rows]
    if gold:
        kept = write_gold(project, events)
        return ImportSummary(rows=len(events), added=kept, unchanged=len(events) - kept)
    with LabelStore.open(project.label_store) as store:
        added = store.append(events)
    return ImportSummary(rows=len(events), added=added, unchanged=len(events) - added)


def _check_columns(path: Path, line: int, row: Row) -> None:
    unknown = [name for name in row if name not in _COLUMNS.names]
    absent = [name for name in _NEEDED if name not in row]
    if unknown or absent:
        problem = f"unknown column {unknown[0]!r}" if unknown else f"no column {absent[0]!r}"
        raise LabelError(f"{path}: line {line}: {problem}; columns are {', '.join(_COLUMNS.names)}")


def _event(path: Path, line: int, row: Row, pair: Row, defaults: Row) -> AnswerEvent:
    values = {**defaults, "outcome": "ok", **row}
    try:
        # the times may have to come from the grid, and the grid needs a segment that was checked
        probe = event_from({**values, "start_s": 0.0, "end_s": 1.0})
        grid = SegmentGrid(pair["num_frames"], pair["fps"], probe.segment_s)
        if probe.segment >= grid.num_segments:
            raise LabelError(
                f"segment {probe.segment} is outside pair {probe.pair_id!r}, which has 0 to {grid.num_segments - 1}"
            )
        start_s, end_s = (0.0, grid.duration_s) if probe.segment == WHOLE_CLIP else grid.bounds_s(probe.segment)
        return event_from({"start_s": start_s, "end_s": end_s, **values})
    except (LabelError, ConfigError) as error:
        raise LabelError(f"{path}: line {line}: {error}") from None


def _read_rows(path: Path) -> Numbered:
    try:
        rows = read_rows(path)
    except ProjectError as error:
        raise LabelError(str(error)) from None
    adapt = _ADAPTERS.get(path.suffix.lower(), dict)
    for line, row in rows:
        if not isinstance(row, dict):
            raise LabelError(f"{path}: line {line}: expected an object with pair_id, segment and answer")
        try:
            yield line, adapt(row)
        except (KeyError, ValueError) as error:
            raise LabelError(f"{path}: line {line}: {error}") from None


def _read_dataset(folder: Path) -> Numbered:
    yield from enumerate((_without_nulls(row) for row in read_dataset(folder)), start=1)


def _without_nulls(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None or name in _OPTIONAL}


def _from_cells(row: dict[str, str]) -> Row:
    """Return the answer in a row of a CSV, ours or VideoAlign's.

    Raises:
        ValueError: if it has more or fewer cells than the file has columns, or is not what VideoAlign writes.
    """
    if None in row or None in row.values():
        raise ValueError("more or fewer cells than columns")
    if "path_A" not in row:
        return _typed(row)
    try:
        return from_videoalign(row)
    except (KeyError, ValueError) as error:
        raise ValueError(f"not a row of the VideoAlign CSV ({error})") from None


def _typed(row: Mapping[str, str]) -> Row:
    typed: Row = {}
    for name, cell in row.items():
        if cell or name in _NEEDED:
            typed[name] = _CONVERSIONS.get(name, str)(cell)
    return typed


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        # left as text: the check of the event names field and value
        return cell


_CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "segment": lambda cell: int(cell) if cell.removeprefix("-").isdecimal() else cell,
    "answer": lambda cell: cell or None,
    **dict.fromkeys(("trusted", "offered"), lambda cell: {"true": True, "false": False}.get(cell.lower(), cell)),
    **dict.fromkeys(("segment_s", "start_s", "end_s", "confidence", "dwell_s"), _number),
}


_ADAPTERS: dict[str, Callable[[dict[str, Any]], Row]] = {".csv": _from_cells, ".parquet": _without_nulls}
_READERS: dict[str, Callable[[Path], Numbered]] = {
    **dict.fromkeys(ROW_SUFFIXES, _read_rows),
    ".json": read_label_studio,
}
