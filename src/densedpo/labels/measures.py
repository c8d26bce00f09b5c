"""What each side of a pair looks like, in numbers: the measured properties per segment and for the whole clip.

Reads the pairs' videos, measures every frame (clips/measure.py) and keeps the means as one JSON file a pair under
``cache/measures``, so that repeating the audit measures nothing again. Feeds labels/audit.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.decode import read_video
from densedpo.clips.measure import FrameMeasures, measure
from densedpo.errors import ConfigError, MediaError, ProjectError
from densedpo.labels.answers import SIDES, Side
from densedpo.labels.grid import SegmentGrid
from densedpo.observe import track, warn
from densedpo.store.files import read_json, write_json
from densedpo.store.project import Project
from densedpo.store.tables import Row

Means = Mapping[str, float | None]

_SCHEMA_VERSION = 1
# Between-frame properties have one value a step from one frame to the next, the others one a frame.
PROPERTIES = {
    "motion_px_s": "step",
    "mean_motion_px_s": "step",
    "brightness": "frame",
    "saturation": "frame",
    "sharpness": "frame",
    "subject_share": "frame",
    "flicker": "step",
    "warp_error": "step",
}


@dataclass(frozen=True)
class SideMeasures:
    """Means of one side by property, for the clip and for each segment; None where there is nothing to average."""

    clip: Means
    segments: Sequence[Means]


PairMeasures = Mapping[Side, SideMeasures]


@dataclass(frozen=True)
class MeasuredPairs:
    """Measures by pair id, how many were computed now, and the pairs set aside with the reason."""

    pairs: dict[str, PairMeasures]
    computed: int
    rejected: list[dict[str, str]]


def means(measured: FrameMeasures, grid: SegmentGrid) -> SideMeasures:
    """Average frame measures over each segment and the whole clip; steps across a segment's border count for none."""
    segments = [grid.frames_of(segment) for segment in range(grid.num_segments)]
    return SideMeasures(
        clip=_means(measured, slice(0, grid.num_frames)), segments=[_means(measured, frames) for frames in segments]
    )


def _means(measured: FrameMeasures, frames: slice) -> Means:
    found: dict[str, float | None] = {}
    for name, kind in PROPERTIES.items():
        values: NDArray[np.floating] = getattr(measured, name)[frames.start : frames.stop - (kind == "step")]
        mean = float(np.mean(values)) if values.size else math.nan
        found[name] = mean if math.isfinite(mean) else None
    return found


def measure_pairs(project: Project, pairs: Sequence[Row], segment_s: float) -> MeasuredPairs:
    """Return the measures of ``pairs`` (rows of the pairs table), computing what the cache lacks.

    A pair whose files are damaged, or that is shorter than one segment, is named, counted and set aside.
    """
    done: dict[str, PairMeasures] = {}
    rejected: list[dict[str, str]] = []
    missing: list[Row] = []
    for pair in pairs:
        cached = _cached(_cache_file(project, pair), segment_s)
        if cached is None:
            missing.append(pair)
        else:
            done[pair["pair_id"]] = cached
    for pair in track(missing, "measuring pairs", total=len(pairs), done=len(done)):
        try:
            measured = _measure_pair(project, pair, segment_s)
        except (MediaError, ConfigError) as error:
            warn(f"pair {pair['pair_id']} set aside: {error}")
            rejected.append({"pair_id": pair["pair_id"], "reason": str(error)})
            continue
        sides = {side: {"clip": found.clip, "segments": found.segments} for side, found in measured.items()}
        record = {"schema_version": _SCHEMA_VERSION, "segment_s": segment_s, "sides": sides}
        write_json(_cache_file(project, pair), record)
        done[pair["pair_id"]] = measured
    return MeasuredPairs(done, len(missing) - len(rejected), rejected)


def _cache_file(project: Project, pair: Row) -> Path:
    return project.cache / "measures" / f"{pair['pair_id']}.json"


def _cached(file: Path, segment_s: float) -> PairMeasures | None:
    try:
        record = read_json(file)
    except ProjectError:
        return None
    if record["schema_version"] != _SCHEMA_VERSION or record["segment_s"] != segment_s:
        return None
    return {side: SideMeasures(**record["sides"][side]) for side in SIDES}


def _measure_pair(project: Project, pair: Row, segment_s: float) -> PairMeasures:
    grid = SegmentGrid(pair["num_frames"], pair["fps"], segment_s)
    found: dict[Side, SideMeasures] = {}
    for side in SIDES:
        file = project.pairs / pair["pair_id"] / f"{side}.mp4"
        frames = read_video(file).frames
        if len(frames) != grid.num_frames:
            raise MediaError(f"{file}: {len(frames)} frames, the pairs table says {grid.num_frames}; make it again")
        found[side] = means(measure(frames, pair["fps"]), grid)
    return found
