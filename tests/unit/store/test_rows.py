"""Rows that people bring along: what each kind of file gives, and what is wrong with one is said with its line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from densedpo.errors import ProjectError
from densedpo.store.files import read_object
from densedpo.store.rows import read_rows

ODD = "one\u2028two\x85three\x1cfour"  # line breaks to str.splitlines, not to CSV or JSON


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_kinds_say_the_same(tmp_path: Path) -> None:
    rows = [{"name": "a", "text": ODD}, {"name": "b", "text": "ü"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    csv = written(tmp_path / "rows.CSV", f"\ufeffname,text\r\na,{ODD}\r\nb,ü\r\n")
    jsonl = written(
        tmp_path / "rows.jsonl", f'{{"name": "a", "text": "one\u2028two\x85three\\u001cfour"}}\n\n{"[1]"}\n'
    )
    assert read_rows(tmp_path / "rows.parquet") == [(1, rows[0]), (2, rows[1])]
    assert read_rows(csv) == [(2, rows[0]), (3, rows[1])]
    assert read_rows(jsonl) == [(1, rows[0]), (3, [1])]


def test_cells_may_hold_line_breaks_and_be_too_many_or_too_few(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", 'a,b\n"1\n1",2\n3\n4,5,6\n')
    assert read_rows(path) == [
        (3, {"a": "1\n1", "b": "2"}),
        (4, {"a": "3", "b": None}),
        (5, {"a": "4", "b": "5", None: ["6"]}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{}\n{"a"', "line 2 is not JSON"),
        ("rows.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("rows.jsonl", b"1" * 5_000, "line 1 is not JSON"),
        ("rows.csv", b'a,b\n1,2\n"3,4\n', "line 3 is not CSV"),
        ("rows.csv", b"a\ncaf\xe9\n", "not UTF-8 text .* byte 5.*; save it as UTF-8"),
        ("rows.parquet", b"x", "not readable as Parquet"),
        ("rows.xlsx", b"x", "one that ends in .csv, .jsonl, .parquet"),
        ("gone/rows.csv", None, "no such file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ProjectError, match=f"{name}: .*{message}"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"1" * 5_000, b'"caf\xe9"'])
def test_what_is_no_json_is_named_whatever_the_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ProjectError, match=r"x\.json: not readable as JSON"):
        read_object(tmp_path / "x.json")
