"""Scores that need no weights, held against ground truth where a project has both."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from tests.unit.report.test_curves import evaluation

from densedpo.report.evaluation import Evaluation
from densedpo.report.rankings import compare_rankings
from densedpo.store.project import Project
from densedpo.store.tables import Row, write_table

VARIANTS = (("base", None, 0.0, None), ("dense", "dense", 1.0, None))


def named(name: str, scorer: str, digest: str = "same") -> Evaluation:
    found = evaluation(VARIANTS)
    return Evaluation(name, found.summary | {"scorer": scorer, "prompt_set": {"digest": digest}}, [], "")


def write_scores(project: Project, name: str, gain: float) -> None:
    """Write scores in which dense has ``gain`` less artifact than base, and as much motion."""
    rows: list[Row] = [
        {
            "model": model,
            "prompt_id": f"p{prompt}",
            "seed": 0,
            "artifact": 0.5 + 0.01 * prompt - gain * (model == "dense"),
            "dynamic_degree": 4.0 + prompt,
        }
        for model in ("base", "dense")
        for prompt in range(8)
    ]
    write_table(project.evaluation(name) / "scores.parquet", rows, pa.Table.from_pylist(rows).schema)


def test_what_ranks_alike_and_what_does_not_is_said(tmp_path: Path) -> None:
    project = Project(tmp_path)
    write_scores(project, "truth", gain=0.2)
    write_scores(project, "alike", gain=0.1)
    write_scores(project, "upside-down", gain=-0.1)
    found = compare_rankings(
        project, [named("truth", "examiner"), named("alike", "frames"), named("upside-down", "frames")]
    )
    assert [one.found for one in found] == ["alike", "upside-down"]
    counts = [[(score.same, score.opposite, score.upside_down) for score in one.scores] for one in found]
    assert counts[0] == [(1, 0, []), (1, 0, [])]
    assert counts[1] == [(1, 0, []), (0, 1, ["base and dense"])]


def test_only_the_same_models_on_the_same_prompts_are_compared(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert compare_rankings(project, [named("truth", "examiner"), named("other", "frames", "another")]) == []
    assert compare_rankings(project, [named("one", "frames"), named("two", "frames")]) == []
