"""What the page shows of a pair, and how shown sides map to stored ones.

Which side comes first is drawn from (annotator, pair), so a second visit looks the same; a pair shown once more to
measure self-consistency comes mirrored, so that a habit of choosing one side does not look like consistency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from densedpo.errors import ConfigError
from densedpo.keys import stream_seed
from densedpo.labels.answers import TAGS, Answer, AnswerEvent, Side
from densedpo.labels.people.asks import Card, Span, grid_of
from densedpo.labels.people.forms import OneAnswer, ShownAnswer
from densedpo.labels.queue import Claim
from densedpo.store.tables import Row


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


def event_of(claim: Claim, given: OneAnswer, span: Span, settings_digest: str) -> AnswerEvent:
    """Return the event that a person's answer amounts to; a taken-back one is ``withdrawn``."""
    first = shown_first(claim)
    return AnswerEvent(
        pair_id=claim.pair_id,
        segment=given.segment,
        answer=None if given.answer is None else stored_answer(given.answer, first),
        outcome="withdrawn" if given.answer is None else "ok",
        source="person",
        author=claim.annotator,
        segment_s=span.segment_s,
        start_s=span.start_s,
        end_s=span.end_s,
        settings_digest=settings_digest,
        task=claim.task,
        tags=",".join(tag for tag in TAGS if tag in given.tags),
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
        tags=[tag for tag in TAGS if tag in event.tags.split(",")],
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
