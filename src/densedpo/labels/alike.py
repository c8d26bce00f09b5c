"""What need not be asked: segments whose sides are all but equal, and pairs whose sides do not move together.

Judged by what ``pairs make`` measured frame by frame. A pair that says nothing of it is always asked about.
"""

from __future__ import annotations

import numpy as np

from densedpo.labels.grid import SegmentGrid
from densedpo.store.tables import Row

_LEVELS = 255


def alike_segments(pair: Row, grid: SegmentGrid, below: float) -> list[bool]:
    """Return for each segment whether no frame of it differs between the sides by ``below`` or more.

    Args:
        pair: its row.
        grid: the segments.
        below: mean absolute difference of a frame, in 8-bit levels; 0 finds none.
    """
    differences = pair.get("frame_difference")
    if not differences:
        return [False] * grid.num_segments
    levels = np.asarray(differences) * _LEVELS
    return [bool(levels[grid.frames_of(segment)].max() < below) for segment in range(grid.num_segments)]


def why_not_ask(pair: Row, grid: SegmentGrid, alike_below: float, agreement_above: float) -> str | None:
    """Return why labels of a pair would teach nothing, or None if they may.

    Args:
        pair: its row.
        grid: its segments.
        alike_below: as ``below`` of ``alike_segments``.
        agreement_above: least mean agreement of motion, -1 to 1, that a *guided* pair must have; sides made from
            independent noise are not meant to agree.
    """
    if all(alike_segments(pair, grid, alike_below)):
        return "its sides are all but equal"
    agreement = pair.get("frame_motion_agreement")
    if pair["mode"] == "guided" and agreement and float(np.mean(agreement)) < agreement_above:
        return "its sides do not move together"
    return None
