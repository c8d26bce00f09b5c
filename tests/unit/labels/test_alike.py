"""What nobody is asked about: segments whose sides are equal, pairs whose sides do not move together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from densedpo.labels.alike import alike_segments, why_not_ask
from densedpo.labels.answers import Answer
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.judges.base import Judgement, SegmentPair
from densedpo.labels.judges.run import judge_pairs
from densedpo.labels.store import current_answers
from densedpo.pairs.make import PAIRS_SCHEMA
from densedpo.store.project import Project
from densedpo.store.tables import read_table, write_table

GRID = SegmentGrid(32, 8.0)


def pair(*segment_levels: float, agreement: float = 0.9, mode: str = "guided") -> dict[str, Any]:
    return {
        "mode": mode,
        "frame_difference": [level / 255 for level in segment_levels for _ in range(8)],
        "frame_motion_agreement": [agreement] * 31,
    }


def test_a_segment_is_alike_where_no_frame_differs() -> None:
    row = pair(0.1, 3.0, 0.4, 0.2)
    assert alike_segments(row, GRID, 0.5) == [True, False, True, True]
    row["frame_difference"][31] = 0.6 / 255
    assert alike_segments(row, GRID, 0.5) == [True, False, True, False]
    assert alike_segments(row, GRID, 0.0) == [False] * 4


def test_pairs_that_teach_nothing_say_why() -> None:
    assert why_not_ask(pair(0.1, 0.1, 0.1, 0.1), GRID, 0.5, -1) == "its sides are all but equal"
    assert why_not_ask(pair(0.1, 0.1, 0.1, 0.6), GRID, 0.5, -1) is None
    assert why_not_ask(pair(9, 9, 9, 9, agreement=0.1), GRID, 0.5, 0.3) == "its sides do not move together"
    assert why_not_ask(pair(9, 9, 9, 9, agreement=0.1, mode="independent"), GRID, 0.5, 0.3) is None


@pytest.mark.parametrize("nothing", [None, []])
def test_a_pair_that_says_nothing_of_it_is_asked_about(nothing: list[float] | None) -> None:
    row = {"mode": "guided", "frame_difference": nothing, "frame_motion_agreement": nothing}
    assert alike_segments(row, GRID, 99) == [False] * 4
    assert why_not_ask(row, GRID, 99, 1.0) is None


class Asked:
    """A judge that prefers a and counts."""

    name, settings_digest = "asked", "0"
    parallel = 1

    def __init__(self) -> None:
        self.calls = 0

    def judge(self, pair: SegmentPair) -> Judgement:
        self.calls += 1
        answer: Answer = "a"
        return Judgement(answer)


def test_a_judge_is_spared_what_is_alike(pairs_project: Path) -> None:
    project = Project(pairs_project)
    rows = read_table(project.pairs_table)
    first = SegmentGrid(rows[0]["num_frames"], rows[0]["fps"]).frames_of(1)
    rows[0]["frame_difference"][first] = [0.0] * (first.stop - first.start)
    write_table(project.pairs_table, rows, PAIRS_SCHEMA)
    judge = Asked()
    summary = judge_pairs(project, judge, 1.0, alike_below=1e-6)
    answers = {(e.pair_id, e.segment): e for e in current_answers(project.label_store)}
    assert (summary.alike, judge.calls) == (1, len(answers) - 1)
    spared = answers[rows[0]["pair_id"], 1]
    assert (spared.answer, spared.outcome) == ("tie", "ok") and "not asked" in spared.reason
    assert {e.answer for key, e in answers.items() if key != (rows[0]["pair_id"], 1)} == {"a"}
