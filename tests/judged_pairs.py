"""A small project with drawn pairs in which one side flickers, for tests that judge it: no model, made in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.unit.labels.conftest import PAIR_COLUMNS, pair_row

from densedpo.clips.encode import write_video
from densedpo.miniworld.scenes import draw_scene, render, subjects
from densedpo.store.project import Project
from densedpo.store.tables import write_table

SEGMENTS = 4  # of each pair


def flickering(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gain = 1 + 0.25 * (-1.0) ** np.arange(len(frames))
    return np.clip(frames * gain[:, None, None, None], 0, 255).astype(np.uint8)


def make_project(root: Path, pairs: int, *, flickers: str = "ba") -> Project:
    """Return a project of ``pairs`` pairs of 4 segments; the sides that ``flickers`` names do so in turn."""
    project = Project(root)
    rows = [pair_row(f"p{number:03}") for number in range(pairs)]
    kinds = subjects()
    for number, row in enumerate(rows):
        clean = render(draw_scene(kinds[number % len(kinds)], "judged pairs", number))
        for side in "ab":
            bad = side == flickers[number % len(flickers)]
            write_video(project.pairs / row["pair_id"] / f"{side}.mp4", flickering(clean) if bad else clean, 8.0)
    write_table(project.pairs_table, rows, PAIR_COLUMNS)
    return project
