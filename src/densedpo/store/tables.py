"""Parquet tables and item folders: how a stage publishes what it made.

A stage that makes many items writes one folder (or file) an item, each with its row as JSON inside, renamed into place
whole. The Parquet table is compiled from those rows: it can be rebuilt at any time, and a row is in it only if its
files are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from densedpo.errors import ProjectError
from densedpo.store.files import read_json, replacing

Row = dict[str, Any]


def write_table(path: Path, rows: list[Row], schema: pa.Schema) -> None:
    """Write ``rows`` durably as Parquet in place of ``path``; columns and types come from ``schema``."""
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def read_table(path: Path) -> list[Row]:
    """Read a Parquet table as a list of rows; a missing file is an empty table.

    Raises:
        ProjectError: if the file is there but unreadable.
    """
    if not path.exists():
        return []
    try:
        # not pq.read_table: it reads the library's data sets of many files first, 40 ms of every command
        with pq.ParquetFile(path) as table:
            rows: list[Row] = table.read().to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ProjectError(f"{path}: not readable as Parquet ({error}); make it again") from None
    return rows


def table_metadata(path: Path) -> dict[str, str]:
    """Return the text metadata stored in a Parquet file's schema."""
    raw = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in raw.items() if not key.startswith(b"ARROW")}


def collect_rows(folder: Path) -> dict[str, Row]:
    """Return the rows of all whole item folders below ``folder``, by folder name, in order of name."""
    if not folder.is_dir():
        return {}
    found = sorted(path for path in folder.glob("*/row.json") if not path.parent.name.startswith("."))
    return {path.parent.name: read_json(path) for path in found}
