"""Builders shared by the tests of the labels room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from densedpo.labels.answers import AnswerEvent
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project
from densedpo.store.tables import Row, write_table

PAIR_COLUMNS = pa.schema(
    {
        "pair_id": pa.string(),
        "clip_id": pa.string(),
        "caption": pa.string(),
        "mode": pa.string(),
        "eta": pa.float64(),
        "fps": pa.float64(),
        "num_frames": pa.int64(),
        "height": pa.int64(),
        "width": pa.int64(),
        "duration_s": pa.float64(),
    }
)


def pair_row(pair_id: str, *, mode: str = "guided", num_frames: int = 33, fps: float = 8.0) -> Row:
    return {
        "pair_id": pair_id,
        "clip_id": "c" + pair_id,
        "caption": f"caption of {pair_id}",
        "mode": mode,
        "eta": 0.7,
        "fps": fps,
        "num_frames": num_frames,
        "height": 32,
        "width": 32,
        "duration_s": num_frames / fps,
    }


def event(pair_id: str = "p1", segment: int = 0, answer: str | None = "a", **changes: Any) -> AnswerEvent:
    values: dict[str, Any] = {
        "pair_id": pair_id,
        "segment": segment,
        "answer": answer,
        "outcome": "ok" if answer is not None else "failed",
        "source": "person",
        "author": "ann",
        "segment_s": 1.0,
        "start_s": float(max(segment, 0)),
        "end_s": float(max(segment, 0) + 1),
    }
    return AnswerEvent(**{**values, **changes})


Fill = Callable[[list[AnswerEvent]], Project]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose table holds the pairs p1, p2 (guided) and p3 (independent), four segments each."""
    made = Project(tmp_path)
    rows = [pair_row("p1"), pair_row("p2"), pair_row("p3", mode="independent")]
    write_table(made.pairs_table, rows, PAIR_COLUMNS)
    return made


@pytest.fixture
def fill(project: Project) -> Fill:
    """Append events to the project's store."""

    def append(events: list[AnswerEvent]) -> Project:
        with LabelStore.open(project.labels_database) as store:
            store.append(events)
        return project

    return append
