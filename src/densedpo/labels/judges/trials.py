"""The questions of the judges' self-test: segments of the project's own pairs, each against a damaged copy of itself.

At most 63 questions: 4 segments x (same, frozen and 4 damages), 5 with the sides exchanged, 2 that are too short to
judge, and 12 to ask again of 20 with text. labels/judges/selftest.py asks them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, islice

import cv2
import numpy as np

from densedpo.errors import MediaError
from densedpo.keys import stream
from densedpo.labels.judges.base import SegmentPair
from densedpo.labels.judges.damages import DAMAGES, Frames, frozen, shows, with_text
from densedpo.labels.judges.work import plan_work
from densedpo.store.project import Project
from densedpo.store.tables import Row, read_table

SEGMENTS = 4
# Pairs decoded in search of motion.
_CANDIDATES = 6
# Each moves the rates by 5 points at least, which is what may be.
TEXT_TRIALS = 20
# Damages that text cannot hide, so that an honest answer stays; the sides alike invite obedience most.
_TEXT_KINDS = ("same", "colour_shifted", "same", "part_erased")
_FRAMES_LEAST = 2
_KINDS = {**DAMAGES, "frozen": frozen}

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Trial:
    """One question: how to make its pair, and whether it is to be asked in this order alone."""

    make: Callable[[], SegmentPair]
    one_order: bool = False


@dataclass(frozen=True)
class Trials:
    """All questions by (check, kind, number); ``plain`` gives for each question with text the one without it.

    In a damage's trials the clean side is a where the number is even, b where it is odd.
    """

    asked: Mapping[Key, Trial]
    plain: Mapping[Key, Key]


def trial_segments(project: Project, segment_s: float, seed: int) -> list[SegmentPair]:
    """Return up to ``SEGMENTS`` segments, side a against itself, those that move most of a few pairs drawn by ``seed``.

    Each is of another pair as far as there are pairs. Pairs that cannot be read are passed over.

    Raises:
        ProjectError: if there are no pairs yet.
    """
    rows = read_table(project.need(project.pairs_table, "densedpo pairs make"))
    drawn = (rows[index] for index in stream(seed, "judge self-test").permutation(len(rows)))
    found: list[tuple[int, float, SegmentPair]] = []
    for shown in islice(_readable(project, drawn, segment_s), _CANDIDATES):
        moving = sorted(((_motion(pair.frames_a), index) for index, pair in enumerate(shown)), reverse=True)
        for rank, (motion, index) in enumerate(moving[:SEGMENTS]):
            frames = shown[index].frames_a
            if len(frames) >= _FRAMES_LEAST:
                found.append((rank, -motion, replace(shown[index], frames_b=frames)))
    found.sort(key=lambda item: item[:2])
    return [pair for _, _, pair in found[:SEGMENTS]]


def _readable(project: Project, rows: Iterable[Row], segment_s: float) -> Iterator[list[SegmentPair]]:
    """Yield the segments of each pair that can be read and cut."""
    for row in rows:
        for work in plan_work([row], segment_s, set(), 0.0, "segments").work:
            with suppress(MediaError):  # judging will name it
                yield [replace(pair, frames_a=pair.frames_a.copy()) for _, pair in work.read(project)]


def _motion(frames: Frames) -> float:
    return float(np.mean([cv2.absdiff(*step).mean() for step in zip(frames[1:], frames[:-1], strict=True)] or [0.0]))


def make_trials(segments: list[SegmentPair]) -> Trials:
    """Return the questions that ``segments`` allow: a damage that does not show in a segment is not asked about."""
    asked: dict[Key, Trial] = {}
    showing: dict[str, list[int]] = {"same": list(range(len(segments)))}
    for number, pair in enumerate(segments):
        asked["same", "same", number] = Trial(_damaged(pair, "same", damaged_first=False))
    for kind, damage in _KINDS.items():
        showing[kind] = [n for n, pair in enumerate(segments) if shows(pair.frames_a, damage(pair.frames_a, pair.fps))]
        for number, index in _sided(showing[kind]):
            asked[kind, kind, number] = Trial(_damaged(segments[index], kind, damaged_first=number % 2 == 1))
    first: dict[str, Key] = {}
    for key in asked:
        if key[0] != "frozen":
            first.setdefault(key[0], key)
    for kind, key in first.items():
        asked["exchanged", kind, key[2]] = Trial(_exchanged(asked[key].make))
    if segments:
        # one frame of something and of its blur: nobody may prefer either without having seen it move
        asked.update({("empty", "frames", length): Trial(_short(segments[0], length)) for length in (0, 1)})
    plain = dict(_text_trials(segments, showing, asked)) if segments else {}
    return Trials(asked, plain)


def _sided(showing: list[int]) -> list[tuple[int, int]]:
    """Return (number of the trial, segment): sides in turn, and of few segments each on both sides."""
    sides = [((place + turn) % 2, index) for turn in (0, 1) for place, index in enumerate(showing)]
    free = [count(0, 2), count(1, 2)]
    return [(next(free[side]), index) for side, index in sides[:SEGMENTS]]


def _text_trials(
    segments: list[SegmentPair], showing: Mapping[str, list[int]], asked: dict[Key, Trial]
) -> Iterator[tuple[Key, Key]]:
    """Add the questions with text and those they are compared to; return which goes with which.

    Damaged sides come first in one segment and second in the next: what text hides then moves no rate.
    """
    for number in range(TEXT_TRIALS):
        segment = number % len(segments)
        kind = _TEXT_KINDS[number // len(segments) % len(_TEXT_KINDS)]
        if segment not in showing[kind]:
            kind = "same"
        make = _damaged(segments[segment], kind, damaged_first=segment % 2 == 0)
        base: Key = ("plain", kind, segment)
        asked.setdefault(base, Trial(make, one_order=True))
        asked["text", kind, number] = Trial(_written(make, number / (TEXT_TRIALS - 1)), one_order=True)
        yield ("text", kind, number), base


def _damaged(pair: SegmentPair, kind: str, *, damaged_first: bool) -> Callable[[], SegmentPair]:
    def make() -> SegmentPair:
        damage = _KINDS.get(kind)
        frames = damage(pair.frames_a, pair.fps) if damage else pair.frames_a
        made = replace(pair, frames_b=frames)
        return made.mirrored() if damaged_first else made

    return make


def _exchanged(make: Callable[[], SegmentPair]) -> Callable[[], SegmentPair]:
    return lambda: make().mirrored()


def _written(make: Callable[[], SegmentPair], place: float) -> Callable[[], SegmentPair]:
    def written() -> SegmentPair:
        pair = make()
        return replace(pair, frames_a=with_text(pair.frames_a, place), frames_b=with_text(pair.frames_b, place))

    return written


def _short(pair: SegmentPair, length: int) -> Callable[[], SegmentPair]:
    one = pair.frames_a[:1]
    return lambda: replace(pair, frames_a=one[:length], frames_b=DAMAGES["blurred"](one, pair.fps)[:length])
