"""A motion prompt set from the user's files: what is asked, what is kept, what is dropped and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from densedpo.clips.caption_check import Verdict, check_captions
from densedpo.config import FilterSettings
from densedpo.errors import ConfigError
from densedpo.evaluation import prompt_builder
from densedpo.evaluation.prompt_builder import QUESTION, build_prompts
from densedpo.evaluation.prompts import load_prompts, prompts_digest
from densedpo.store.files import read_json

SETTINGS = FilterSettings(caption_endpoint="http://127.0.0.1:9/v1", caption_model="m")
Build = Callable[..., dict[str, Any]]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "one.txt").write_text("A man juggles.\nA lake at dawn.\nA girl dances\n")
    (tmp_path / "two.json").write_text('[{"prompt_en": "a MAN juggles!"}, {"prompt_en": "A boy jumps rope."}]')
    return [tmp_path / "one.txt", tmp_path / "two.json"]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[Path]) -> Build:
    """Build with a service that says yes to everything but lakes."""

    def answer(captions: list[str], *_: object, question: str, version: int) -> dict[str, Verdict]:
        assert question == QUESTION and version == 1
        return {text: Verdict("no", "nobody acts") if "lake" in text else Verdict("yes") for text in captions}

    monkeypatch.setattr(prompt_builder, "check_captions", answer)
    return lambda out="set.txt", **more: build_prompts(files, tmp_path / out, SETTINGS, tmp_path / "cache", **more)


def test_the_set_and_its_report(build: Build, tmp_path: Path) -> None:
    found = build()
    assert (tmp_path / "set.txt").read_text() == "A man juggles.\nA girl dances\nA boy jumps rope.\n"
    assert found["digest"] == prompts_digest(load_prompts(tmp_path / "set.txt"))
    assert (found["kept"], found["dropped"]) == (3, {"repeated": 1, "no": 1})
    report = read_json(tmp_path / "set.report.json")
    assert report["dropped_prompts"] == [
        {"prompt": "a MAN juggles!", "why": "repeated", "reason": "as 'A man juggles.'"},
        {"prompt": "A lake at dawn.", "why": "no", "reason": "nobody acts"},
    ]
    assert report["question"] == QUESTION


def test_lines_of_json_are_read_back(build: Build, tmp_path: Path) -> None:
    build("set.jsonl")
    assert [prompt.text for prompt in load_prompts(tmp_path / "set.jsonl")][:1] == ["A man juggles."]


def test_a_limit_takes_by_hash_and_says_so(build: Build) -> None:
    found = build(limit=2)
    assert (found["kept"], found["dropped"]["limit"]) == (2, 1)
    assert build(limit=2)["digest"] == found["digest"]


def test_refusals(build: Build, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="\\.txt or \\.jsonl"):
        build("set.csv")
    with pytest.raises(ConfigError, match="--caption-endpoint"):
        build_prompts(files, tmp_path / "x.txt", FilterSettings(), tmp_path)
    monkeypatch.setattr(
        prompt_builder, "check_captions", lambda texts, *_, **__: dict.fromkeys(texts, Verdict("failed"))
    )
    with pytest.raises(ConfigError, match="no answer to 4 prompts; repeat"):
        build()
    monkeypatch.setattr(prompt_builder, "check_captions", lambda texts, *_, **__: dict.fromkeys(texts, Verdict("no")))
    with pytest.raises(ConfigError, match="none of 4"):
        build()
    assert not list(tmp_path.glob("set.*"))


def test_questions_do_not_share_answers(tmp_path: Path) -> None:
    """An answer about a clip's caption is none about a prompt, though the text is the same."""
    from densedpo.clips import caption_check

    asked: list[str] = []

    def ask(_client: object, _settings: object, wording: str, caption: str) -> Verdict:
        asked.append(wording)
        return Verdict("yes")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_check, "_ask", ask)
        patch.setattr(caption_check, "_client", lambda _: None)
        check_captions(["x"], SETTINGS, tmp_path)
        for _ in range(2):
            check_captions(["x"], SETTINGS, tmp_path, question=QUESTION, version=1)
        check_captions(["x"], SETTINGS, tmp_path, question=QUESTION, version=2)
    assert asked == [caption_check.PROMPT, QUESTION, QUESTION]
