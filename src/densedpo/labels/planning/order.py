"""The order in which people's time goes furthest, and the file that keeps it: ``labels/plan.parquet``.

Made by labels/planning/plan.py, followed by the labelling page (labels/order.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from densedpo.config import LabelSettings
from densedpo.errors import ConfigError, LabelError
from densedpo.keys import stream
from densedpo.labels.alike import alike_segments
from densedpo.labels.answers import Question
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.planning.doubt import Belief
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table, write_table

_COLUMNS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("segment", pa.int64(), nullable=False),
        pa.field("pair_rank", pa.int64(), nullable=False),
        pa.field("belief", pa.float64(), nullable=False),
        pa.field("why", pa.string(), nullable=False),
    ]
)


def plan_file(project: Project) -> Path:
    """Return where the plan lies."""
    return project.labels / "plan.parquet"


def planned_pairs(project: Project) -> dict[str, int]:
    """Return the rank of each pair in the plan, from 0.

    Raises:
        LabelError: if there is no plan yet.
    """
    if not plan_file(project).exists():
        raise LabelError(f"{plan_file(project)}: no plan yet; run `densedpo label plan` first")
    return {row["pair_id"]: row["pair_rank"] for row in read_table(plan_file(project))}


def questions_of(pairs: Sequence[Row], settings: LabelSettings) -> tuple[list[Question], int]:
    """Return the segments that are worth asking about, and how many look alike."""
    questions, alike = [], 0
    for pair in pairs:
        try:
            grid = SegmentGrid(pair["num_frames"], pair["fps"], settings.segment_s)
        except ConfigError:
            continue  # shorter than one segment: there is nothing to label
        same = alike_segments(pair, grid, settings.alike_below)
        alike += sum(same)
        questions += [(pair["pair_id"], segment) for segment, equal in enumerate(same) if not equal]
    return questions, alike


def orders(questions: Sequence[Question], belief: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order of segments by belief, and by the mean belief of their pair with pairs kept together.

    Equal ones come as drawn, so that the table's order means nothing.
    """
    _, pair = np.unique([pair_id for pair_id, _ in questions], return_inverse=True)
    sizes = np.bincount(pair, minlength=1)
    mean = np.bincount(pair, weights=belief, minlength=1) / np.maximum(1, sizes)
    drawn = stream("plan", "segments", len(questions)).permutation(len(questions))
    drawn_pair = stream("plan", "pairs", len(sizes)).permutation(len(sizes))[pair]
    return np.lexsort((drawn, belief)), np.lexsort((np.arange(len(questions)), drawn_pair, mean[pair]))


def write_plan(
    project: Project, judge: str, questions: Sequence[Question], order: NDArray[np.int64], found: Sequence[Belief]
) -> Path:
    """Write ``labels/plan.parquet``: the segments in ``order``, with the rank of their pair; return its path."""
    ranks: dict[str, int] = {}
    rows: list[Row] = []
    for place in order.tolist():
        (pair_id, segment), item = questions[place], found[place]
        rank = ranks.setdefault(pair_id, len(ranks))
        told = {"belief": item.belief, "why": item.why}
        rows.append({"pair_id": pair_id, "segment": segment, "pair_rank": rank, **told})
    write_table(plan_file(project), rows, _COLUMNS.with_metadata({"judge": judge}))
    return plan_file(project)
