"""How good one person's answers are: gold accuracy, self-consistency, side bias, ties, speed, and flags.

Flags only say that somebody should look; nothing is deleted. ``label freeze`` leaves flagged people out unless told
otherwise, and the snapshot says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from densedpo.labels.answers import Answer, AnswerEvent
from densedpo.labels.reliability import Estimate, median, share

Gold = Mapping[str, Mapping[int, Answer]]
FAST_S = 0.5
FAST_SHARE = 0.5
FAST_LEAST = 20
SAME_RUN = 60
GOLD_FLOOR = 0.5
CONSISTENCY_FLOOR = 0.5
SIDE_REACH = 0.1
FLAG_RULES = (
    f"too fast: over {FAST_SHARE:.0%} of at least {FAST_LEAST} answers given in under {FAST_S} s; same key: one answer "
    f"as shown {SAME_RUN} times in a row, offered ties left out; gold: accuracy surely under {GOLD_FLOOR:.0%}; "
    f"inconsistent: self-consistency surely under {CONSISTENCY_FLOOR:.0%}; one-sided: first side surely chosen under "
    f"{0.5 - SIDE_REACH:.0%} or over {0.5 + SIDE_REACH:.0%}"
)


@dataclass(frozen=True)
class PersonQuality:
    """Measures of one person, and the flags that follow from them."""

    author: str
    answers: int
    gold: Estimate
    self_consistency: Estimate
    first_rate: Estimate
    tie_rate: Estimate
    dwell_s: Estimate
    flags: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        measures = {name: value.as_dict() for name, value in vars(self).items() if isinstance(value, Estimate)}
        return {"author": self.author, "answers": self.answers, **measures, "flags": list(self.flags)}


def people_quality(events: Sequence[AnswerEvent], gold: Gold) -> list[PersonQuality]:
    """Return the measures of every person among ``events`` (current ones, of one segment length), by name."""
    by_author: dict[str, list[AnswerEvent]] = {}
    for event in events:
        if event.source == "person" and event.answer is not None:
            by_author.setdefault(event.author, []).append(event)
    return [_person(author, by_author[author], gold) for author in sorted(by_author)]


def _person(author: str, events: Sequence[AnswerEvent], gold: Gold) -> PersonQuality:
    measured = [event for event in events if event.task in ("gold", "qualification")]
    known = [event for event in measured if event.segment in gold.get(event.pair_id, {})]
    right = share(
        [event.answer == gold[event.pair_id][event.segment] for event in known],
        [event.pair_id for event in known],
        "answers to pairs with known answers",
    )
    before = {(event.pair_id, event.segment): event.answer for event in events if event.task == "work"}
    repeated = [event for event in events if event.task == "repeat" and (event.pair_id, event.segment) in before]
    consistent = share(
        [event.answer == before[event.pair_id, event.segment] for event in repeated],
        [event.pair_id for event in repeated],
        "answers to repeated pairs",
    )
    sided = [event for event in events if event.answer in ("a", "b") and event.shown_first is not None]
    first = share(
        [event.answer == event.shown_first for event in sided],
        [event.pair_id for event in sided],
        "preferences with a known order of sides",
    )
    ties = share([event.answer == "tie" for event in events], [event.pair_id for event in events], "answers")
    dwell = [event.dwell_s for event in events if event.dwell_s is not None and not event.offered]
    speed = median(dwell, "timed answers")
    flags = _flags(events, dwell, right, consistent, first)
    return PersonQuality(author, len(events), right, consistent, first, ties, speed, flags)


def _flags(
    events: Sequence[AnswerEvent], dwell: Sequence[float], gold: Estimate, consistent: Estimate, first: Estimate
) -> tuple[str, ...]:
    fast = len(dwell) >= FAST_LEAST and sum(one < FAST_S for one in dwell) > FAST_SHARE * len(dwell)
    shown = [
        event.answer if event.answer not in ("a", "b") else str(event.answer == event.shown_first)
        for event in events
        if not event.offered
    ]
    longest = max((len(list(run)) for _, run in groupby(shown)), default=0)
    low, high = 0.5 - SIDE_REACH, 0.5 + SIDE_REACH
    found = {
        "too fast": fast,
        "same key": longest >= SAME_RUN,
        "gold": gold.high is not None and gold.high < GOLD_FLOOR,
        "inconsistent": consistent.high is not None and consistent.high < CONSISTENCY_FLOOR,
        "one-sided": first.high is not None and first.low is not None and (first.high < low or first.low > high),
    }
    return tuple(name for name, raised in found.items() if raised)


def gold_accuracy(events: Sequence[AnswerEvent], gold: Gold) -> dict[str, tuple[int, int]]:
    """Return (right, asked) over answers to pairs with known answers, by person."""
    counts: dict[str, tuple[int, int]] = {}
    for event in events:
        expected = gold.get(event.pair_id, {}).get(event.segment)
        if event.source == "person" and event.task in ("gold", "qualification") and expected and event.answer:
            right, asked = counts.get(event.author, (0, 0))
            counts[event.author] = (right + (event.answer == expected), asked + 1)
    return counts
