"""Scores of outside suites on the videos of an evaluation, as ``densedpo score`` left them in ``suite_NAME.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densedpo.errors import ProjectError
from densedpo.report.text import capitalised
from densedpo.store.files import read_object
from densedpo.store.project import Project


@dataclass(frozen=True)
class SuiteScores:
    """What one suite said: means and paired differences to the base, by model and score."""

    name: str
    version: str
    compared: int
    failed: int
    notes: list[str]
    models: list[str]
    infos: dict[str, dict[str, Any]]
    scores: dict[str, Any]
    differences: dict[str, Any]


def read_suites(project: Project, evaluation: str) -> list[SuiteScores]:
    """Read every suite of an evaluation, in order of name.

    Raises:
        ProjectError: if a file is not what the verb writes.
    """
    return [_read(path) for path in sorted(project.evaluation(evaluation).glob("suite_*.json"))]


def _read(path: Path) -> SuiteScores:
    found = read_object(path)
    try:
        return SuiteScores(
            name=str(found["suite"]),
            version=str(found["version"]),
            compared=int(found["compared"]),
            failed=len(found["failed"]),
            notes=[str(note) for note in found["notes"]],
            models=[str(model) for model in found["models"]],
            infos={
                name: {**info, "label": capitalised(str(info["label"]))} for name, info in found["score_info"].items()
            },
            scores=found["scores"],
            differences=found["differences"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProjectError(f"{path}: lacks {error}; run `densedpo score` again") from None
