"""What a judge is to be shown: the segments of each pair that still lack its answer, and their frames.

Planned from the pairs table alone; a pair's files are read when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from densedpo.clips.decode import read_video
from densedpo.errors import ConfigError, MediaError
from densedpo.labels.alike import alike_segments
from densedpo.labels.answers import WHOLE_CLIP, Question
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.judges.base import SegmentPair
from densedpo.store.project import Project
from densedpo.store.tables import Row

Ask = Literal["segments", "clip"]


@dataclass(frozen=True)
class PairWork:
    """One pair: its row, its grid, the segments to judge, and those that are alike and need no judge."""

    row: Row
    grid: SegmentGrid
    asked: tuple[int, ...]
    alike: tuple[int, ...]

    @property
    def pair_id(self) -> str:
        """The pair's id."""
        return str(self.row["pair_id"])

    @property
    def frame_bytes(self) -> int:
        """Bytes of both sides' frames in memory."""
        return 2 * 3 * int(self.row["num_frames"]) * int(self.row["height"]) * int(self.row["width"])

    def bounds_s(self, segment: int) -> tuple[float, float]:
        """Return start and end of a segment, or of the whole clip, in seconds."""
        return (0.0, self.grid.duration_s) if segment == WHOLE_CLIP else self.grid.bounds_s(segment)

    def read(self, project: Project) -> Iterator[tuple[int, SegmentPair]]:
        """Decode both sides and return what is asked about: the segments and their frames.

        Raises:
            MediaError: if a file is missing, damaged or not what the pairs table says.
        """
        a, b = (self._frames(project, side) for side in ("a", "b"))
        whole = slice(0, len(a))
        cuts = [whole if segment == WHOLE_CLIP else self.grid.frames_of(segment) for segment in self.asked]
        shown = [SegmentPair(a[cut], b[cut], self.grid.fps, self.row["caption"]) for cut in cuts]
        return zip(self.asked, shown, strict=True)

    def _frames(self, project: Project, side: str) -> NDArray[np.uint8]:
        path = project.pairs / self.pair_id / f"{side}.mp4"
        frames = read_video(path).frames
        expected = (self.row["num_frames"], self.row["height"], self.row["width"])
        if frames.shape[:3] != expected:
            raise MediaError(
                f"{path}: frames, height, width are {frames.shape[:3]}, the pairs table says {expected}; "
                "make the pair again"
            )
        return frames


@dataclass(frozen=True)
class Plan:
    """The work on so many ``pairs``; segments ``skipped`` as answered; pairs ``unfit`` for cutting, with why."""

    pairs: int
    work: tuple[PairWork, ...]
    skipped: int
    unfit: tuple[tuple[str, str], ...]

    @property
    def segments(self) -> int:
        """Segments that get an answer."""
        return self.asked + self.alike

    @property
    def asked(self) -> int:
        """Segments to ask about."""
        return sum(len(work.asked) for work in self.work)

    @property
    def alike(self) -> int:
        """Segments that are ties without asking."""
        return sum(len(work.alike) for work in self.work)


def plan_work(pairs: Sequence[Row], segment_s: float, done: Set[Question], alike_below: float, ask: Ask) -> Plan:
    """Return the work on ``pairs``: what is not in ``done``; with ``ask`` "clip" each clip as one.

    Segments in which no frame differs by ``alike_below`` 8-bit levels, and clips of nothing else, are alike.
    """
    works, unfit, skipped = [], [], 0
    for row in pairs:
        try:
            grid = SegmentGrid(row["num_frames"], row["fps"], segment_s)
        except ConfigError as error:
            unfit.append((str(row["pair_id"]), str(error)))
            continue
        alike = dict(enumerate(alike_segments(row, grid, alike_below)))
        if ask == "clip":
            alike = {WHOLE_CLIP: all(alike.values())}
        wanted = [segment for segment in alike if (row["pair_id"], segment) not in done]
        skipped += len(alike) - len(wanted)
        if wanted:
            asked = tuple(segment for segment in wanted if not alike[segment])
            works.append(PairWork(row, grid, asked, tuple(segment for segment in wanted if alike[segment])))
    return Plan(len(pairs), tuple(works), skipped, tuple(unfit))
