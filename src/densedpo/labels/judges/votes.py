"""From replies to one judgement: samples vote, orders must agree, dimensions vote. Pure functions.

First and second become a and b here. An unusable reply makes the whole judgement unusable, and two orders that do not
agree are a tie: a preference needs every reply that was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from densedpo.labels.answers import Answer, Outcome, Side
from densedpo.labels.consensus import consensus
from densedpo.labels.judges.answerer import Reply
from densedpo.labels.judges.base import Judgement
from densedpo.labels.judges.question import Choice, Malformed, Said, read_answer

_RAW_CHARACTERS = 16_000  # of replies' texts, shared equally
_REASON_CHARACTERS = 500
_ANSWERS: dict[Side, dict[Choice, Answer]] = {
    "a": {"first": "a", "second": "b", "tie": "tie", "both_bad": "both_bad", "cannot_judge": "cannot_judge"},
    "b": {"first": "b", "second": "a", "tie": "tie", "both_bad": "both_bad", "cannot_judge": "cannot_judge"},
}


@dataclass(frozen=True)
class Vote:
    """An answer in canonical sides, the confidence behind it in [0, 1], and why."""

    answer: Answer
    confidence: float
    reason: str


@dataclass(frozen=True)
class Heard:
    """One reply, and what it replies to: the dimension ("" overall) and the side that was shown first."""

    dimension: str
    first: Side
    reply: Reply

    @cached_property
    def outcome(self) -> Outcome:
        """The outcome: "ok" if there is a well-formed answer."""
        if self.reply.outcome != "ok":
            return self.reply.outcome
        return "ok" if isinstance(self._read, Said) else "malformed"

    @cached_property
    def vote(self) -> Vote:
        """The answer; only where the outcome is "ok"."""
        assert isinstance(self._read, Said)
        return Vote(_ANSWERS[self.first][self._read.choice], self._read.confidence, self._read.reason)

    @property
    def why(self) -> str:
        """What is wrong with an unusable reply."""
        return self._read.why if isinstance(self._read, Malformed) and self.reply.outcome == "ok" else self.reply.why

    @cached_property
    def _read(self) -> Said | Malformed:
        return read_answer(self.reply.text)


def judgement_of(heard: Sequence[Heard]) -> Judgement:
    """Return what at least one reply amounts to.

    The first reply that is not "ok" gives the outcome, and no answer. Otherwise the samples of each order vote, the two
    orders of each dimension must agree (``agreed``), and the dimensions vote.
    """
    assert heard
    return replace(
        _judged(heard),
        raw=_raw(heard),
        cost=sum(item.reply.cost for item in heard),
        calls=sum(item.reply.calls for item in heard),
        cached=sum(item.reply.cached for item in heard),
    )


def _judged(heard: Sequence[Heard]) -> Judgement:
    for item in heard:
        if item.outcome != "ok":
            return Judgement(None, item.outcome, reason=item.why[:_REASON_CHARACTERS])
    orders: dict[str, list[Vote]] = {}
    for (dimension, _), group in _grouped(heard).items():
        orders.setdefault(dimension, []).append(_voted(group))
    vote = _majority([agreed(votes) for votes in orders.values()])
    return Judgement(vote.answer, "ok", vote.confidence, vote.reason[:_REASON_CHARACTERS])


def agreed(votes: Sequence[Vote]) -> Vote:
    """Return the answer of one order alone, or of two: what both say, ``cannot_judge`` if either does, else a tie.

    The confidence is that of the orders which say so, divided by the number of orders: 0 where one says a, the other b.
    """
    answers = {vote.answer for vote in votes}
    if len(answers) == 1:
        return _backed(votes[0].answer, votes)
    if "cannot_judge" in answers:
        return _backed("cannot_judge", votes)
    said = ", ".join(f"{vote.answer} ({vote.reason})" for vote in votes)
    return _backed("tie", votes, f"a tie, for the orders disagree: {said}")


def _majority(votes: Sequence[Vote]) -> Vote:
    return _backed(consensus([vote.answer for vote in votes]).answer, votes)


def _backed(answer: Answer, votes: Sequence[Vote], reason: str = "") -> Vote:
    """Return ``answer`` with the mean over all votes of their confidence where they say so, and 0 where they do not."""
    backing = [vote for vote in votes if vote.answer == answer]
    reason = reason or (backing[0].reason if backing else f"no majority: {', '.join(vote.answer for vote in votes)}")
    return Vote(answer, sum(vote.confidence for vote in backing) / len(votes), reason)


def _grouped(heard: Sequence[Heard]) -> dict[tuple[str, Side], list[Heard]]:
    groups: dict[tuple[str, Side], list[Heard]] = {}
    for item in heard:
        groups.setdefault((item.dimension, item.first), []).append(item)
    return groups


def _voted(group: Sequence[Heard]) -> Vote:
    return _majority([item.vote for item in group])


def _raw(heard: Sequence[Heard]) -> str:
    """Return all that was said, as JSON in ASCII: for each dimension and order its answer and the replies' texts."""
    limit = max(_RAW_CHARACTERS // len(heard), 1)
    asked = []
    for (dimension, first), group in _grouped(heard).items():
        usable = all(item.outcome == "ok" for item in group)
        vote = _voted(group) if usable else None
        asked.append(
            {
                **({"dimension": dimension} if dimension else {}),
                "first": first,
                "answer": vote.answer if vote else None,
                "confidence": vote.confidence if vote else None,
                "replies": [{"outcome": item.outcome, "text": item.reply.text[:limit]} for item in group],
            }
        )
    return json.dumps({"asked": asked})
