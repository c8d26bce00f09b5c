from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from densedpo.clips.captions import clean, read_captions
from densedpo.errors import MediaError, ProjectError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.mp4", "sub/b ü.mp4"):
        (folder / name).touch()
    return folder


ROWS = [{"path": "a.mp4", "caption": "a red\nsquare"}, {"path": "sub/b ü.mp4", "caption": " Zwölf, „Dinge“ "}]


@pytest.mark.parametrize("kind", ["csv", "csv-bom", "jsonl", "parquet"])
def test_tables(videos: Path, tmp_path: Path, kind: str) -> None:
    table = tmp_path / f"captions.{kind.split('-', maxsplit=1)[0]}"
    if kind.startswith("csv"):
        text = 'path,caption,other\na.mp4,"a red\nsquare",1\nsub/b ü.mp4," Zwölf, „Dinge“ ",2\n'
        table.write_text(text, encoding="utf-8-sig" if kind == "csv-bom" else "utf-8")
    elif kind == "jsonl":
        table.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), table)
    captions = read_captions(table, [videos])
    assert captions.of(videos / "a.mp4") == "a red square"
    assert captions.of(videos / "sub" / "b ü.mp4") == "Zwölf, „Dinge“"
    assert captions.missing_files() == []


def test_paths_relative_to_the_table_and_absolute(videos: Path) -> None:
    table = videos / "captions.csv"
    table.write_text(f"path,caption\na.mp4,one\n{videos / 'sub' / 'b ü.mp4'},two\ngone.mp4,three\n", encoding="utf-8")
    captions = read_captions(table, [])
    assert captions.of(videos / "a.mp4") == "one"
    assert captions.of(videos / "sub" / "b ü.mp4") == "two"
    assert captions.missing_files() == ["gone.mp4"]


def test_sidecar_and_table_has_the_last_word(videos: Path) -> None:
    (videos / "a.txt").write_text("\ufefffrom the\tside\n", encoding="utf-8")
    assert read_captions(None, []).of(videos / "a.mp4") == "from the side"
    table = videos / "captions.csv"
    table.write_text("path,caption\na.mp4,from the table\n", encoding="utf-8")
    assert read_captions(table, []).of(videos / "a.mp4") == "from the table"


@pytest.mark.parametrize("caption", ["", "   ", "\n"])
def test_an_empty_caption_is_none(videos: Path, caption: str) -> None:
    (videos / "a.txt").write_text(caption)
    with pytest.raises(MediaError, match=r"no caption; add a row .* a\.txt"):
        read_captions(None, []).of(videos / "a.mp4")


def test_unusable_captions(videos: Path) -> None:
    (videos / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(MediaError, match="UTF-8"):
        read_captions(None, []).of(videos / "a.mp4")
    (videos / "a.txt").write_text("x" * 10_001)
    with pytest.raises(MediaError, match="10001 characters"):
        read_captions(None, []).of(videos / "a.mp4")


def test_clean() -> None:
    assert clean("a\x00b\r\n\tc\x1b[31m  d\u2028e") == "a b c [31m d e"
    assert clean("日本語 é 🎬") == "日本語 é 🎬"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("c.csv", b"file,text\na,b\n", "no 'path'"),
        ("c.csv", b"path,caption\ncaf\xe9,b\n", "not UTF-8"),
        ("c.csv", b'path,caption\n"a,b\n', "line 2 is not CSV"),
        ("c.jsonl", b"{", "line 1 is not JSON"),
        ("c.jsonl", b"[1]\n", "line 1 has no 'path'"),
        ("c.parquet", b"no", "not readable as Parquet"),
        ("c.xlsx", b"no", "one that ends in .csv, .jsonl, .parquet"),
    ],
)
def test_unusable_tables(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    table = tmp_path / name
    table.write_bytes(content)
    with pytest.raises(ProjectError, match=reason):
        read_captions(table, [tmp_path])


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"gone\.csv: no such file"):
        read_captions(tmp_path / "gone.csv", [])
