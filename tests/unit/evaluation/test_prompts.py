"""Prompt sets: cleaning, ids, files."""

from __future__ import annotations

from pathlib import Path

import pytest

from densedpo.errors import ConfigError
from densedpo.evaluation.prompts import load_prompts, make_prompts, prompts_digest


def test_repeated_prompts_are_kept_once_in_order() -> None:
    prompts = make_prompts(["b  b", "a", "", " b b\t", "a ", "  "])
    assert [prompt.text for prompt in prompts] == ["b b", "a"]
    assert len({prompt.prompt_id for prompt in prompts}) == 2
    assert prompts == make_prompts(["b b", "a"])


def test_digest_is_of_texts_in_order() -> None:
    assert prompts_digest(make_prompts(["a", "b"])) == prompts_digest(make_prompts(["a", "b", "a"], held_out=True))
    assert prompts_digest(make_prompts(["a", "b"])) != prompts_digest(make_prompts(["b", "a"]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\ufeffa cat\n\na dog\na cat\n"),
        ("p.csv", "n,prompt\n1,a cat\n2,a dog\n3,a cat\n"),
        ("p.csv", "caption\na cat\na dog\n"),
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
