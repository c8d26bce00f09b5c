"""What one row of a preference data set says, checked before any video is opened.

TRL's preference columns with video files as answers: ``prompt``, ``chosen``, ``rejected``; and optionally
``segment_labels``, ``clip``, ``eta`` and ``id``. Rows come from Python or from a JSONL, CSV or Parquet file.
``training.rows`` turns them into pairs to train on.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any

from densedpo.clips.captions import MAX_CAPTION_CHARACTERS, clean
from densedpo.errors import LabelError
from densedpo.labels.answers import ANSWERS
from densedpo.labels.consensus import label_of

COLUMNS = ("prompt", "chosen", "rejected", "segment_labels", "clip", "eta", "id")
_UNLABELLED = {"", "null", "none"}


@dataclass(frozen=True)
class PairRow:
    """One checked row: ``chosen`` is side a, ``rejected`` side b.

    Attributes:
        prompt: the text both videos were made from, as one line.
        chosen: video file of the side preferred as a whole.
        rejected: video file of the other side.
        clip: video file of the real clip that both were made from, if there is one.
        segment_labels: one number in [-1, 1] a segment, + where chosen is better, None where unlabelled; None: all +1.
        eta: noise level in (0, 1] that both sides were made from; 1 is pure noise.
        pair_id: the row's own name, if it has one.
    """

    prompt: str
    chosen: Path
    rejected: Path
    clip: Path | None
    segment_labels: tuple[float | None, ...] | None
    eta: float
    pair_id: str | None


def parse_row(row: Any, root: Path) -> PairRow:
    """Check one row; relative paths are looked up in ``root``. Nothing, an empty text and NaN all mean "not given".

    Raises:
        LabelError: naming the column, what it must be and what was given.
    """
    if not isinstance(row, Mapping):
        raise LabelError(f"must be a mapping with the columns {', '.join(COLUMNS[:3])}, got {reprlib.repr(row)}")
    if None in row:
        raise LabelError("has more cells than the file has columns")
    given = {name: row[name] for name in COLUMNS if name in row and not _absent(row[name])}
    if missing := [name for name in COLUMNS[:3] if name not in given]:
        raise LabelError(f"has no {', no '.join(missing)}")
    labels = given.get("segment_labels")
    return PairRow(
        prompt=_prompt(given["prompt"]),
        chosen=_path("chosen", given["chosen"], root),
        rejected=_path("rejected", given["rejected"], root),
        clip=_path("clip", given["clip"], root) if "clip" in given else None,
        segment_labels=None if labels is None else _labels(labels),
        eta=_eta(given.get("eta", 1.0)),
        pair_id=_pair_id(given["id"]) if "id" in given else None,
    )


def _absent(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    # tables loaded with pandas say NaN where there is nothing
    return value is None or (isinstance(value, float) and math.isnan(value))


def _prompt(value: Any) -> str:
    if not isinstance(value, str):
        raise LabelError(f"prompt must be a text, got {reprlib.repr(value)}")
    text = clean(value)
    if not 0 < len(text) <= MAX_CAPTION_CHARACTERS:
        raise LabelError(f"prompt must have 1 to {MAX_CAPTION_CHARACTERS} characters, got {len(text)}")
    return text


def _path(column: str, value: Any, root: Path) -> Path:
    if not isinstance(value, str | PurePath):
        raise LabelError(f"{column} must be the path of a video file, got {reprlib.repr(value)}")
    try:
        name = os.fsencode(value)
    except UnicodeEncodeError:
        name = b"\0"
    if b"\0" in name:
        raise LabelError(f"{column} is not a path that a file can have: {str(value)!a}")
    return root / value


def _labels(value: Any) -> tuple[float | None, ...]:
    """Return labels given as a list or, in a CSV, as JSON or as ``1, tie, -0.5``."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text) if text.startswith("[") else text.replace(";", ",").split(",")
        except (ValueError, RecursionError):
            raise LabelError(f"segment_labels must be a list, got {reprlib.repr(value)}") from None
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise LabelError(f"segment_labels must be a list, got {reprlib.repr(value)}")
    return tuple(_label(place, label) for place, label in enumerate(value))


def _label(place: int, value: Any) -> float | None:
    text = value.strip().lower() if isinstance(value, str) else None
    if value is None or text in _UNLABELLED:
        return None
    for answer in ANSWERS:
        if text == answer:
            return float(label_of(answer))
    number = _number(value)
    if number is None or not -1 <= number <= 1:
        raise LabelError(
            f"segment_labels[{place}] must be a number from -1 to 1, one of {', '.join(ANSWERS)}, or null, "
            f"got {reprlib.repr(value)}"
        )
    return number


def _eta(value: Any) -> float:
    number = _number(value)
    if number is None or not 0 < number <= 1:
        raise LabelError(f"eta must be a noise level above 0 and up to 1, got {reprlib.repr(value)}")
    return number


def _pair_id(value: Any) -> str:
    text = str(value) if isinstance(value, str | Integral) else ""
    if not text or clean(text) != text:
        raise LabelError(f"id must be one line of text or a whole number, got {reprlib.repr(value)}")
    return text


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
