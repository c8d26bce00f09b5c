"""What a project says of something that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from densedpo.errors import ProjectError
from densedpo.store.project import Project


def said(project: Project, path: Path) -> str:
    with pytest.raises(ProjectError) as error:
        project.need(path, "densedpo make it")
    return str(error.value)


def test_a_misspelt_run_or_evaluation_is_answered_with_the_names_there_are(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for folder in (project.run("dense"), project.run("vanilla"), project.evaluation("held-out")):
        folder.mkdir(parents=True)
    ends = "not there yet; run `densedpo make it` first, or name one of: "
    assert said(project, project.run("denze")).endswith(ends + "dense, vanilla")
    assert said(project, project.evaluation("heldout") / "scores.parquet").endswith(ends + "held-out")


def test_nothing_is_named_where_a_step_was_left_out(tmp_path: Path) -> None:
    project = Project(tmp_path / "none")
    assert said(project, project.run("dense")).endswith("first")
    project.run("dense").mkdir(parents=True)
    assert said(project, project.pairs_table) == f"{project.pairs_table}: not there yet; run `densedpo make it` first"
    assert said(project, project.run("dense") / "lora").endswith("first")


def test_what_is_there_is_returned(tmp_path: Path) -> None:
    assert Project(tmp_path).need(tmp_path, "densedpo make it") == tmp_path
