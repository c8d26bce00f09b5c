"""From answers to labels: pure functions, no I/O.

Answers of one source kind come in; one label in {-1, 0, +1} a question comes out (+1: a is better, -1: b is better,
0: no preference). Stands between the store and the snapshot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from densedpo.labels.answers import ANSWERS, WHOLE_CLIP, Answer, AnswerEvent

RULE = "most votes; shared first place is a tie; cannot_judge abstains; clip: own answers, else sign of segment sum"
_LABELS: dict[Answer, int] = {"a": 1, "b": -1}
_SAME = 1e-9


@dataclass(frozen=True)
class Consensus:
    """What the answers to one question amount to: the answer, its label in {-1, 0, +1} and the votes by answer.

    ``weight`` in (0, 1] is how much a preference counts: 1 unless it is a machine's whose confidence is known.
    """

    answer: Answer
    label: int
    votes: Mapping[Answer, int]
    weight: float = 1.0


def label_of(answer: Answer) -> int:
    """Return the label of an answer: +1 for a, -1 for b, 0 for every other."""
    return _LABELS.get(answer, 0)


def consensus(answers: Sequence[Answer]) -> Consensus:
    """Return what ``answers`` (at least one) amount to.

    The answer with most votes wins; a shared first place is a tie. ``cannot_judge`` abstains, and is the result only
    where nobody could judge.
    """
    assert answers
    votes: Counter[Answer] = Counter(answers)
    judged = {answer: count for answer, count in votes.items() if answer != "cannot_judge"}
    first = [answer for answer, count in judged.items() if count == max(judged.values())]
    winner: Answer = "cannot_judge" if not first else first[0] if len(first) == 1 else "tie"
    ordered = {answer: votes[answer] for answer in ANSWERS if votes[answer]}
    return Consensus(winner, label_of(winner), ordered)


def by_question(events: Iterable[AnswerEvent]) -> dict[tuple[str, int], Consensus]:
    """Return the consensus per (pair, segment) over usable events of one source kind and one segment length."""
    answers: dict[tuple[str, int], list[Answer]] = {}
    kinds = set()
    for event in events:
        if event.usable and event.answer is not None:
            kinds.add((event.source, event.segment_s))
            answers.setdefault((event.pair_id, event.segment), []).append(event.answer)
    assert len(kinds) <= 1, f"mixed sources or segment lengths: {kinds}"
    return {question: consensus(given) for question, given in answers.items()}


def with_weights(
    found: Mapping[tuple[str, int], Consensus], weights: Mapping[tuple[str, int], float]
) -> dict[tuple[str, int], Consensus]:
    """Return ``found`` with these weights; 1 where there is none."""
    return {question: replace(item, weight=weights.get(question, 1.0)) for question, item in found.items()}


@dataclass(frozen=True)
class PairConsensus:
    """Labels of one pair: per segment (None: unlabelled) and for the clip, and the number of votes behind them."""

    segments: tuple[Consensus | None, ...]
    clip: Consensus | None
    votes: int


def of_pair(found: Mapping[tuple[str, int], Consensus], pair_id: str, num_segments: int) -> PairConsensus:
    """Return the labels of one pair of ``num_segments`` segments.

    The clip's label comes from answers about the whole clip where there are any, else from the sign of the sum of its
    weighted segment labels (with no votes of its own); it weighs as the segments that prefer the same side, on average.
    """
    segments = tuple(found.get((pair_id, segment)) for segment in range(num_segments))
    whole = found.get((pair_id, WHOLE_CLIP))
    votes = sum(sum(item.votes.values()) for item in (*segments, whole) if item is not None)
    return PairConsensus(segments, whole if whole is not None else _derived(segments), votes)


def _derived(segments: Sequence[Consensus | None]) -> Consensus | None:
    labelled = [item for item in segments if item is not None]
    if not labelled:
        return None
    total = sum(item.label * item.weight for item in labelled)
    if abs(total) > _SAME:
        label = 1 if total > 0 else -1
        return Consensus("a" if label > 0 else "b", label, {}, mean(i.weight for i in labelled if i.label == label))
    given = {item.answer for item in labelled}
    return Consensus(given.pop() if len(given) == 1 else "tie", 0, {})
