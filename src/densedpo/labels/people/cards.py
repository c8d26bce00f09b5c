"""What the page shows of a pair, and how shown sides map to stored ones.

Which side comes first is drawn from (annotator, pair), so a second visit looks the same; a pair shown once more to
measure self-consistency comes mirrored, so that a habit of choosing one side does not look like consistency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from densedpo.errors import ConfigError
from densedpo.keys import stream_seed
from densedpo.labels.answers import WHOLE_CLIP, Answer, AnswerEvent, Side
from densedpo.labels.grid import SegmentGrid
from densedpo.labels.people.forms import OneAnswer, SegmentShown, ShownAnswer, Tag
from densedpo.labels.queue import Claim
from densedpo.store.tables import Row


@dataclass(frozen=True, slots=True)
class Card:
    """The part of a pair's row that the page needs."""

    pair_id: str
    caption: str
    fps: float
    num_frames: int
    height: int
    width: int


def cards(pairs: Iterable[Row], segment_s: float) -> dict[str, Card]:
    """Return the cards of all pairs that are at least one segment long, in order."""
    found = {}
    for row in pairs:
        try:
            grid_of(row["num_frames"], row["fps"], segment_s)
        except ConfigError:
            continue
        names = ("pair_id", "caption", "fps", "num_frames", "height", "width")
        found[row["pair_id"]] = Card(*(row[name] for name in names))
    return found


@lru_cache(maxsize=256)
def grid_of(num_frames: int, fps: float, segment_s: float) -> SegmentGrid:
    """Return the segment grid of a clip; clips of one model share it."""
    return SegmentGrid(num_frames, fps, segment_s)


def shown_first(claim: Claim) -> Side:
    """Return which side this person sees first in this task."""
    swapped = stream_seed("labels", "side order", claim.annotator, claim.pair_id) % 2 == 1
    return "b" if swapped != (claim.task == "repeat") else "a"


def stored_answer(answer: ShownAnswer, first: Side) -> Answer:
    """Return a shown answer in terms of sides a and b."""
    other: Side = "b" if first == "a" else "a"
    return first if answer == "first" else other if answer == "second" else answer


def shown_answer(answer: Answer, first: Side) -> ShownAnswer:
    """Return a stored answer in terms of what this person sees first and second."""
    if answer == "a" or answer == "b":  # noqa: PLR1714 (a type checker follows this form only)
        return "first" if answer == first else "second"
    return answer


def segments_shown(grid: SegmentGrid, differences: Sequence[float] | None, offer_below: float) -> list[SegmentShown]:
    """Return the segments of a clip; a tie is offered where no frame differs by ``offer_below`` or more levels."""
    made = []
    for index in range(grid.num_segments):
        frames, (start_s, end_s) = grid.frames_of(index), grid.bounds_s(index)
        inside = differences[frames] if differences is not None else ()
        offered: Literal["tie"] | None = "tie" if inside and max(inside) < offer_below else None
        count = frames.stop - frames.start
        made.append(
            SegmentShown(
                index=index, start_s=start_s, end_s=end_s, first_frame=frames.start, num_frames=count, offered=offered
            )
        )
    return made


def event_of(claim: Claim, given: OneAnswer, grid: SegmentGrid, settings_digest: str) -> AnswerEvent:
    """Return the event that a person's answer amounts to; a taken-back one is ``withdrawn``."""
    whole = given.segment == WHOLE_CLIP
    start_s, end_s = (0.0, grid.duration_s) if whole else grid.bounds_s(given.segment)
    first = shown_first(claim)
    return AnswerEvent(
        pair_id=claim.pair_id,
        segment=given.segment,
        answer=None if given.answer is None else stored_answer(given.answer, first),
        outcome="withdrawn" if given.answer is None else "ok",
        source="person",
        author=claim.annotator,
        segment_s=grid.segment_s,
        start_s=start_s,
        end_s=end_s,
        settings_digest=settings_digest,
        task=claim.task,
        tags=",".join(tag for tag in _TAGS if tag in given.tags),
        note=given.note,
        dwell_s=given.dwell_s,
        shown_first=first,
        offered=given.offered,
    )


def own_answers(claim: Claim, events: Iterable[AnswerEvent], segment_s: float) -> list[OneAnswer]:
    """Return this person's own current answers to this task, as shown to them."""
    mine = [
        event
        for event in events
        if (event.author, event.source, event.task) == (claim.annotator, "person", claim.task)
        and event.segment_s == segment_s
    ]
    return [_shown(event) for event in sorted(mine, key=lambda event: event.segment) if event.answer is not None]


def _shown(event: AnswerEvent) -> OneAnswer:
    assert event.answer is not None
    # the order it was answered in, in case another way of drawing it is in use by now
    first = event.shown_first or "a"
    return OneAnswer(
        segment=event.segment,
        answer=shown_answer(event.answer, first),
        tags=[tag for tag in _TAGS if tag in event.tags.split(",")],
        note=event.note,
        dwell_s=event.dwell_s,
        offered=event.offered,
    )


def others_answers(
    claim: Claim, events: Iterable[AnswerEvent], segment_s: float, wanted: Callable[[AnswerEvent], bool]
) -> dict[int, list[ShownAnswer]]:
    """Return what others said about each segment, as this person would see it, in no telling order."""
    first = shown_first(claim)
    found: dict[int, list[ShownAnswer]] = {}
    for event in events:
        if event.answer is not None and event.segment_s == segment_s and wanted(event):
            found.setdefault(event.segment, []).append(shown_answer(event.answer, first))
    return {segment: sorted(found[segment]) for segment in sorted(found)}


_TAGS: tuple[Tag, ...] = ("limbs", "morphing", "blur", "popping", "impossible_motion")
