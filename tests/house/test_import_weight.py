"""``densedpo --help`` answers without a model: nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

HEAVY = {
    "accelerate",
    "av",
    "cv2",
    "diffusers",
    "peft",
    "plotly",
    "pyarrow",
    "scipy",
    "sqlalchemy",
    "torch",
    "transformers",
}
RunCommand = Callable[..., dict[str, Any]]


def heavy_modules_of_help(run_command: RunCommand, before: str = "") -> set[str]:
    outcome = run_command([["--help"]], before=before)
    assert outcome["results"][0]["code"] == 0
    assert "densedpo" in outcome["results"][0]["text"].lower()
    return HEAVY & set(outcome["modules"])


def test_help_imports_nothing_heavy(run_command: RunCommand) -> None:
    assert heavy_modules_of_help(run_command) == set()


def test_the_check_sees_a_heavy_import(run_command: RunCommand) -> None:
    assert "cv2" in heavy_modules_of_help(run_command, before="import cv2")
