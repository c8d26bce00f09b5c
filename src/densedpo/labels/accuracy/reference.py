"""What judges are measured by: the labels of people, of known answers, of a simulated or of a named author.

Chooses the answers that count as right, makes one label a question of them, and one of each whole video. Feeds
labels/accuracy/table.py, labels/accuracy/fit.py and labels/planning/plan.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from densedpo.errors import LabelError
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent, Question
from densedpo.labels.consensus import Consensus, label_of
from densedpo.labels.quality import Gold
from densedpo.labels.rules import reviewer_first

AGAINST = ("people", "gold", "simulated")


@dataclass(frozen=True)
class Reference:
    """Labels in {-1, 0, +1} (+1: a is better) by question and by whole video; ``against`` says whose.

    A whole video's label comes from answers about it where there are any (``clips_asked`` counts those), else it is the
    side that most of its segments prefer. Questions that nobody could judge are not there. A video's question is
    (pair, WHOLE_CLIP).
    """

    against: str
    authors: tuple[str, ...]
    segments: Mapping[Question, int]
    clips: Mapping[Question, int]
    clips_asked: int

    def as_dict(self) -> dict[str, object]:
        """Return what it is and how much of it there is, as plain values for JSON."""
        labels = list(self.segments.values())
        return {
            "against": self.against,
            "authors": list(self.authors),
            "segments": len(labels),
            "preferences": sum(label != 0 for label in labels),
            "clips": len(self.clips),
            "clips_asked": self.clips_asked,
        }


def reference(events: Sequence[AnswerEvent], gold: Gold, against: str) -> Reference:
    """Return the reference named ``against``: people, gold, simulated, or an author of any source.

    Args:
        events: current answers on one segment length, by anybody.
        gold: known answers by pair and segment.
        against: whose answers count as right.

    Raises:
        LabelError: if there are none, naming what there is.
    """
    if against == "gold":
        found = {
            (pair_id, segment): Consensus(answer, label_of(answer), {answer: 1})
            for pair_id, known in gold.items()
            for segment, answer in known.items()
        }
        authors: tuple[str, ...] = ("gold",)
    else:
        source = {"people": "person", "simulated": "simulated"}.get(against)
        chosen = [
            event
            for event in events
            if event.usable and (event.source == source if source else event.author == against)
        ]
        if len({event.source for event in chosen}) > 1:
            raise LabelError(f"{against!r} names authors of several sources; choose people, gold or simulated")
        found, authors = reviewer_first(chosen), tuple(sorted({event.author for event in chosen}))
    if not found:
        raise LabelError(f"nothing to measure against: no answers of {against!r}; there are {_there_is(events, gold)}")
    judged = {question: item for question, item in found.items() if item.answer != "cannot_judge"}
    segments = {question: item.label for question, item in judged.items() if question[1] != WHOLE_CLIP}
    clips = {question: item.label for question, item in judged.items() if question[1] == WHOLE_CLIP}
    return Reference(against, authors, segments, {**majorities(segments), **clips}, len(clips))


def judge_among(events: Sequence[AnswerEvent], judge: str | None) -> str:
    """Return the name of a judge whose answers are among ``events``: the one named, or the only one.

    Raises:
        LabelError: if it has none, or if there are several judges and none was named.
    """
    names = sorted({event.author for event in events if event.source == "judge"})
    if not names:
        raise LabelError("no judge has answered yet; run `densedpo label judge` first")
    if judge is None and len(names) > 1:
        raise LabelError(f"several judges have answered: {', '.join(names)}; name one with --judge")
    if judge is not None and judge not in names:
        raise LabelError(f"judge {judge!r} has given no answers to go by; there are those of {', '.join(names)}")
    return judge or names[0]


def majorities(segments: Mapping[Question, int]) -> dict[Question, int]:
    """Return by whole video the sign of the sum of its segments' labels: the paper's majority vote."""
    totals: dict[Question, int] = {}
    for (pair_id, _), label in segments.items():
        totals[pair_id, WHOLE_CLIP] = totals.get((pair_id, WHOLE_CLIP), 0) + label
    return {question: (total > 0) - (total < 0) for question, total in totals.items()}


def _there_is(events: Sequence[AnswerEvent], gold: Gold) -> str:
    counts: dict[str, int] = {}
    for event in events:
        if event.usable:
            name = f"{event.author} ({event.source})"
            counts[name] = counts.get(name, 0) + 1
    told = [f"{count} of {name}" for name, count in sorted(counts.items())]
    told += [f"{sum(map(len, gold.values()))} known ones (gold)"] if gold else []
    return ", ".join(told) or "no answers at all"
