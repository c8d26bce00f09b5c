"""The verbs of evaluation as commands: prompt sets by name, and options that are refused before any work."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from densedpo import cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command; return its exit code and what it printed."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner keeps its own handlers

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["densedpo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


def fails(result: tuple[int, str, str], words: str) -> None:
    code, out, err = result
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert (code, out, len(errors)) == (1, "", 1) and words in errors[0], err


def test_prompts_list(run: Run, tmp_path: Path) -> None:
    _, out, _ = run("prompts", "list", "--project", tmp_path, "--json")
    found = json.loads(out)
    assert found["shipped"] == [{"name": "densedpo-motion-48", "prompts": 48, "digest": "bf68f9468378070d"}]
    assert {entry["name"] for entry in found["not_shipped"]} == {"VideoJAM-bench", "VBench", "VMBench"}


def test_prompts_build_names_what_is_missing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a man juggles\n")
    build = ["prompts", "build", tmp_path / "mine.txt", "--project", tmp_path, "--out"]
    fails(run(*build, tmp_path / "set.txt"), "--caption-endpoint")
    fails(run(*build, tmp_path / "set.txt", "--caption-endpoint", "http://127.0.0.1:9/v1"), "belong together")
    fails(run(*build, tmp_path / "set.csv"), "set.csv")


def test_a_folder_of_videos_takes_no_option_of_models(run: Run, tmp_path: Path) -> None:
    folder = ["evaluate", "--videos", tmp_path, "--project", tmp_path]
    for option in (
        ["--run", "r"],
        ["--prompts", "densedpo-motion-48"],
        ["--shard", "1/2"],
        ["--scorer", "frames"],
        ["--scales", "0,1"],
        ["--every-checkpoint"],
        ["--model", "miniature"],
        ["--seeds", "2"],
    ):
        fails(run(*folder, *option), f"no use for {option[0]}; leave")
    # all at once
    fails(run(*folder, "--steps", "4", "--run", "r", "--quality", "flicker"), "no use for --run, --steps, --quality;")
    # settings of the project are no options
    (tmp_path / "densedpo.yaml").write_text("sample: {seeds: 3}\n")
    fails(run(*folder), "no video file")


def test_options_of_folders_need_one(run: Run, tmp_path: Path) -> None:
    fails(run("evaluate", "--workers", "2", "--project", tmp_path), "--workers is for --videos")
    fails(run("score", "--command", "x", "--captions", tmp_path / "c.csv", "--project", tmp_path), "--captions is for")


def test_evaluate_refuses_before_any_work(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "r").mkdir(parents=True)
    common = ["evaluate", "--run", "r", "--model", tiny_model_folder, "--project", tmp_path]
    fails(run(*common), "prompts list")
    fails(run(*common, "--prompts", "densedpo-motion-49"), "densedpo-motion-48")
    named = [*common, "--prompts", "densedpo-motion-48"]
    fails(run(*named, "--shard", "3/2"), "--shard")
    fails(run(*named, "--scales", "0,-1"), "evaluate.scales")
    fails(run(*named, "--quality", "beauty"), "evaluate.quality")
    fails(run(*named), "no LoRA")
    assert not (tmp_path / "samples").exists()
