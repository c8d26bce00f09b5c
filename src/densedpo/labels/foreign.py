"""Answers in other tools' shapes: Label Studio's JSON, the datasets layout of the Hugging Face hub, VideoAlign's CSV.

Label Studio tasks and datasets hold every field, so what goes out comes back the same. VideoAlign knows one answer a
pair; its rows come in as answers about the whole clip.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from densedpo.errors import LabelError, ProjectError
from densedpo.labels.answers import ANSWERS, WHOLE_CLIP, AnswerEvent
from densedpo.store.files import read_json, replacing_folder, write_text
from densedpo.store.tables import Row, read_table, write_table

Numbered = Iterator[tuple[int, Row]]
VIDEOALIGN_ANSWERS = {"a": "A", "b": "B", "tie": "same", "both_bad": "same"}
_WHOLE = "clip"
_PART = "segment-"
_OURS = "densedpo"
_PAIR_COLUMNS = pa.schema(
    {
        "pair_id": pa.string(),
        "caption": pa.string(),
        "mode": pa.string(),
        "fps": pa.float64(),
        "num_frames": pa.int64(),
        "height": pa.int64(),
        "width": pa.int64(),
        "duration_s": pa.float64(),
    }
)
_CARD = """---
pretty_name: Segment preferences on video pairs
configs:
- config_name: answers
  default: true
  data_files: data/answers.parquet
- config_name: pairs
  data_files: data/pairs.parquet
---

One row of `answers` is what one author said about one segment (`segment` -1: the whole clip) of one pair, from
`start_s` to `end_s`: `a`, `b`, `tie`, `both_bad` or `cannot_judge`. A row of `pairs` says what the pair is. Made by
densedpo.
"""


def label_studio(events: Iterable[AnswerEvent], pairs: Iterable[Row]) -> list[dict[str, Any]]:
    """Return Label Studio tasks, one a pair with answers: people's as annotations, all others' as predictions."""
    by_pair: dict[str, dict[tuple[str, str], list[AnswerEvent]]] = {}
    for event in events:
        by_pair.setdefault(event.pair_id, {}).setdefault((event.source, event.author), []).append(event)
    tasks = []
    for row in pairs:
        pair_id = row["pair_id"]
        if pair_id not in by_pair:
            continue
        annotations, predictions = [], []
        for (source, author), said in sorted(by_pair[pair_id].items()):
            result = [_result(event) for event in said]
            if source == "person":
                annotations.append({"completed_by": {"email": author}, "result": result})
            else:
                predictions.append({"model_version": author, "result": result})
        videos = {f"video_{side}": f"pairs/{pair_id}/{side}.mp4" for side in ("a", "b")}
        data = {"pair_id": pair_id, "caption": row["caption"], **videos}
        tasks.append({"data": data, "annotations": annotations, "predictions": predictions})
    return tasks


def _result(event: AnswerEvent) -> dict[str, Any]:
    part = _WHOLE if event.segment == WHOLE_CLIP else f"{_PART}{event.segment}"
    choices = [event.answer] if event.answer is not None else []
    return {
        "from_name": part,
        "to_name": "videos",
        "type": "choices",
        "value": {"choices": choices, "start": event.start_s, "end": event.end_s},
        # everything else that was said, so that nothing is lost on the way back
        "meta": {_OURS: asdict(event)},
    }


def read_label_studio(path: Path) -> Numbered:
    """Yield the answers in a Label Studio export, numbered by task from 1.

    Results of ours hold every field; of others, a choice named like an answer counts, for the segment that
    ``from_name`` ends in (``segment-3``; ``clip``: the whole clip).

    Raises:
        LabelError: naming the task that is not in that shape.
    """
    try:
        tasks = read_json(path)
    except ProjectError as error:
        raise LabelError(str(error)) from None
    if not isinstance(tasks, list):
        raise LabelError(f"{path}: expected a list of Label Studio tasks")
    for number, task in enumerate(tasks, start=1):
        try:
            pair_id = task["data"]["pair_id"]
            for source, name in (("person", "annotations"), ("judge", "predictions")):
                for given in task.get(name) or []:
                    author = _author(given)
                    for result in given["result"]:
                        yield number, _row(result, {"pair_id": pair_id, "source": source, "author": author})
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise LabelError(f"{path}: task {number}: not a Label Studio task with data.pair_id ({error!r})") from None


def _author(given: Mapping[str, Any]) -> str:
    who = given.get("completed_by", given.get("model_version", "import"))
    return str(who.get("email", "import")) if isinstance(who, dict) else str(who)


def _row(result: Mapping[str, Any], known: Row) -> Row:
    ours = (result.get("meta") or {}).get(_OURS)
    if ours is not None:
        return dict(ours)
    part = str(result["from_name"])
    segment = WHOLE_CLIP if part == _WHOLE else int(part.removeprefix(_PART))
    chosen = [choice for choice in result["value"]["choices"] if choice in ANSWERS]
    return {**known, "segment": segment, "answer": chosen[0]}


def write_dataset(folder: Path, rows: list[Row], columns: pa.Schema, pairs: Sequence[Row]) -> None:
    """Write answers and their pairs as a folder that ``datasets.load_dataset`` reads, in place of ``folder``.

    Raises:
        LabelError: if something else lies there.
    """
    if folder.exists() and not (folder / "data" / "answers.parquet").is_file():
        raise LabelError(f"{folder}: something else is there; name a new folder")
    labelled = {row["pair_id"] for row in rows}
    about = [{name: row.get(name) for name in _PAIR_COLUMNS.names} for row in pairs if row["pair_id"] in labelled]
    with replacing_folder(folder) as temporary:
        write_table(temporary / "data" / "answers.parquet", rows, columns)
        write_table(temporary / "data" / "pairs.parquet", about, _PAIR_COLUMNS)
        write_text(temporary / "README.md", _CARD)


def write_label_studio(path: Path, events: Iterable[AnswerEvent], pairs: Iterable[Row]) -> None:
    """Write Label Studio tasks as one JSON file."""
    write_text(path, json.dumps(label_studio(events, pairs), ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def read_dataset(folder: Path) -> list[Row]:
    """Return the rows of answers in a dataset folder.

    Raises:
        LabelError: if it is none, or not readable.
    """
    path = folder / "data" / "answers.parquet"
    if not path.is_file():
        raise LabelError(f"{folder}: not a dataset of answers; data/answers.parquet is missing")
    try:
        return read_table(path)
    except ProjectError:
        raise LabelError(f"{path}: not readable as Parquet") from None


def from_videoalign(row: Mapping[str, str]) -> Row:
    """Return the answer about the whole clip that a VideoAlign row gives; sides may come in either order.

    Raises:
        ValueError: if the paths are not the two sides of one pair, or Overall is unknown.
    """
    first, second = PurePosixPath(row["path_A"]), PurePosixPath(row["path_B"])
    if first.parent != second.parent or {first.name, second.name} != {"a.mp4", "b.mp4"}:
        raise ValueError("path_A and path_B are not a.mp4 and b.mp4 of one pair")
    sides = {"A": first.stem, "B": second.stem, "same": "tie"}
    if row["Overall"] not in sides:
        raise ValueError(f"Overall must be A, B or same, got {row['Overall']!r}")
    return {"pair_id": first.parent.name, "segment": WHOLE_CLIP, "answer": sides[row["Overall"]]}
