"""Prompt sets: cleaning, ids, files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from densedpo.errors import ConfigError, DenseDPOError
from densedpo.evaluation.prompts import (
    find_prompts,
    load_prompts,
    make_prompts,
    prompts_digest,
    shipped_sets,
    wording,
)


def test_repeated_prompts_are_kept_once_in_order() -> None:
    prompts = make_prompts(["b  b", "a", "", " b b\t", "a ", "  "])
    assert [prompt.text for prompt in prompts] == ["b b", "a"]
    assert len({prompt.prompt_id for prompt in prompts}) == 2
    assert prompts == make_prompts(["b b", "a"])


def test_digest_is_of_texts_in_order() -> None:
    assert prompts_digest(make_prompts(["a", "b"])) == prompts_digest(make_prompts(["a", "b", "a"]))
    assert prompts_digest(make_prompts(["a", "b"])) != prompts_digest(make_prompts(["b", "a"]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\ufeffa cat\n\na dog\na cat\n"),
        ("p.csv", "n,prompt\n1,a cat\n2,a dog\n3,a cat\n"),
        ("p.csv", "caption\na cat\na dog\n"),
        ("p.csv", "index,prompt_en,dimension\n0,a cat,x\n1,a dog,y\n"),
        ("p.json", '[{"prompt_en": "a cat", "dimension": ["color"]}, {"prompt_en": "a dog"}, {"prompt_en": "a cat"}]'),
        ("p.json", '[{"index": "0001", "prompt": "a cat", "subject": "cat"}, {"index": "0002", "prompt": "a dog"}]'),
        ("p.json", '["a cat", "a dog"]'),
        ("p.json", '{"version": 1, "prompts": [{"text": "a cat"}, "a dog"]}'),
        ("p.jsonl", '{"prompt": "a cat"}\n\n{"caption": "a dog"}\n'),
        ("p.jsonl", '{"prompt": "a cat"}\n{"caption": "a dog"}\n{"prompt": "a cat"}\n'),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_prompts(tmp_path / name) == make_prompts(["a cat", "a dog"])


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        load_prompts(tmp_path / "p.txt")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.json", '{"rows": ["a"]}', "expected a list"),
        ("p.json", "[3]", "entry 1"),
        ("p.json", '[{"prompt": 3}]', "no column named prompt"),
        ("p.json", "[" * 200_000, "JSON"),
        ("p.jsonl", '"a"\n{"prompt": "b"}\nx', "line 3"),
        ("p.csv", "n,prompt\n1,a cat\n3\n", "line 3: no column named prompt"),
        ("p.csv", "Prompts;id\na cat;1\n", "line 2: no column named prompt .* there are 'Prompts;id'"),
    ],
)
def test_what_is_no_prompt_file_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DenseDPOError, match=words) as failed:
        load_prompts(tmp_path / name)
    assert "\n" not in str(failed.value)


def test_files_of_other_programs_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": ["a cat", None, "ein Fluß 物"]}), tmp_path / "p.parquet")
    assert load_prompts(tmp_path / "p.parquet") == make_prompts(["a cat", "ein Fluß 物"])
    (tmp_path / "p.CSV").write_text('n,prompt\r\n1,"a cat,\r\nrunning"\r\n2,\r\n', newline="")
    assert [prompt.text for prompt in load_prompts(tmp_path / "p.CSV")] == ["a cat, running"]
    # half a character, as some programs cut long texts
    (tmp_path / "p.json").write_text('["a cat \\ud83d", "a\\u0000dog"]')
    assert [prompt.text for prompt in load_prompts(tmp_path / "p.json")] == ["a cat", "a dog"]
    (tmp_path / "p.txt").write_bytes("a cat\n".encode("utf-16"))
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        load_prompts(tmp_path / "p.txt")
    with pytest.raises(ConfigError, match="no such prompt file"):
        load_prompts(tmp_path)


def test_ten_thousand_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("".join(f"a cat, number {n % 9_000}\n" for n in range(10_000)))
    assert len(load_prompts(tmp_path / "p.txt")) == 9_000


def test_wording_is_all_but_case_and_punctuation() -> None:
    assert wording(" A cat, running! ") == wording("a Cat running") != wording("a cat runs")
    assert wording("STRAẞE 物") == wording("strasse, 物")
    assert wording("!?") != wording("?!")  # nothing but signs: as it is


def test_the_shipped_set_is_found_by_name(tmp_path: Path) -> None:
    found, name = find_prompts("densedpo-motion-48")
    assert name == "densedpo-motion-48" in shipped_sets()
    assert len(found) == len({prompt.text.casefold() for prompt in found}) == 48
    assert all(50 < len(prompt.text) < 200 and prompt.text.endswith(".") for prompt in found)
    # numbers are compared across versions by this: a change of a prompt is a new set with a new name
    assert prompts_digest(found) == "bf68f9468378070d"
    (tmp_path / "mine.txt").write_text("a cat\n")
    assert find_prompts(str(tmp_path / "mine.txt")) == (make_prompts(["a cat"]), "mine.txt")
    with pytest.raises(ConfigError, match="densedpo-motion-48"):
        find_prompts("densedpo-motion-49")
