"""Does a judge go by quality or by what it sees first? Read from the answers it gave in each order of the sides.

A judge that was asked in both orders leaves them in ``raw`` (labels/judges/vlm.py); one asked once says in the event
which side was shown first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from densedpo.labels.answers import ANSWERS, Answer, AnswerEvent, Question, Side
from densedpo.labels.consensus import label_of
from densedpo.labels.reliability import Estimate, share

Asked = tuple[Side, Answer]


def answers_in_order(event: AnswerEvent) -> list[Asked]:
    """Return (side shown first, answer) of each usable answer behind an event, an empty list where nothing says."""
    try:
        kept = json.loads(event.raw) if event.raw else None
    except ValueError:
        kept = None
    listed = kept.get("asked") if isinstance(kept, dict) else None
    if isinstance(listed, list):
        return [
            (item["first"], item["answer"])
            for item in listed
            if isinstance(item, dict) and item.get("first") in ("a", "b") and item.get("answer") in ANSWERS
        ]
    if event.shown_first is not None and event.answer is not None:
        return [(event.shown_first, event.answer)]
    return []


def torn(event: AnswerEvent) -> bool:
    """Say whether the judge, asked in both orders, preferred one side in the one and the other side in the other."""
    given = answers_in_order(event)
    return len(given) == 2 and {first for first, _ in given} == {"a", "b"} == {answer for _, answer in given}


def position(events: Sequence[AnswerEvent], truth: Mapping[Question, int]) -> dict[str, Any]:
    """Return the measures of position bias, as plain values for JSON.

    ``first_rate``: share of preferences, as given in one order, for the side shown first; 1/2 without bias where both
    orders were asked or the order was drawn. ``same_in_both_orders``: share of segments whose answer does not change
    with the order. ``first_when_torn``: where both orders prefer a side and not the same, the share that follow the
    first. ``one_order``: share of single answers that name the reference's side where both prefer one, which is what
    asking once would be worth.
    """
    asked = [(event, answers_in_order(event)) for event in events]
    single = [(event, first, answer) for event, given in asked for first, answer in given if answer in ("a", "b")]
    both = [(event, given) for event, given in asked if {first for first, _ in given} == {"a", "b"}]
    undecided = [(event, dict(given)) for event, given in both if torn(event)]
    known = [(event, answer) for event, _, answer in single if truth.get((event.pair_id, event.segment))]
    found: dict[str, Estimate] = {
        "first_rate": share(
            [answer == first for _, first, answer in single],
            [event.pair_id for event, _, _ in single],
            "preferences with a known order of sides",
        ),
        "same_in_both_orders": share(
            [len({answer for _, answer in given}) == 1 for _, given in both],
            [event.pair_id for event, _ in both],
            "segments asked in both orders",
        ),
        "first_when_torn": share(
            [by_first["a"] == "a" for _, by_first in undecided],
            [event.pair_id for event, _ in undecided],
            "segments of which the orders prefer different sides",
        ),
        "one_order": share(
            [label_of(answer) == truth[event.pair_id, event.segment] for event, answer in known],
            [event.pair_id for event, _ in known],
            "single answers where both prefer a side",
        ),
    }
    return {name: value.as_dict() for name, value in found.items()}
