"""Rows that people bring along: CSV, JSON lines and Parquet files, read alike wherever one is taken.

What a row must hold is checked by whoever asked for it, who can name the line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densedpo.errors import ProjectError
from densedpo.store.tables import read_table

ROW_SUFFIXES = (".csv", ".jsonl", ".parquet")


def read_rows(path: Path) -> list[tuple[int, Any]]:
    """Return each row of a file with the line that it ends on; rows of Parquet are counted from 1.

    A JSON line may hold any value. A row of a CSV is a dictionary of texts: cells beyond the columns are listed under
    None, and columns without a cell hold None.

    Raises:
        ProjectError: if the file is missing, of another kind or unreadable; with the line where there is one.
    """
    kind = path.suffix.lower()
    if kind not in ROW_SUFFIXES or not path.is_file():
        raise ProjectError(f"{path}: no such file of rows; give one that ends in {', '.join(ROW_SUFFIXES)}")
    if kind == ".parquet":
        return list(enumerate(read_table(path), start=1))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    return list(_jsonl(path, text) if kind == ".jsonl" else _csv(path, text))


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    # str.splitlines would also split at characters that JSON allows inside a text
    for line, part in enumerate(text.split("\n"), start=1):
        if part.strip():
            try:
                yield line, json.loads(part)
            except (ValueError, RecursionError) as error:
                raise ProjectError(f"{path}: line {line} is not JSON ({error}); correct or remove it") from None


def _csv(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ProjectError(f"{path}: line {reader.reader.line_num} is not CSV ({error}); correct it") from None
