"""How right is a judge? Its answers against a reference: the paper's Table 3a (arXiv 2506.03517) for one's own data.

Three columns, for the paper does not say how a judge's tie counts: ``ties_skipped`` where both prefer a side,
``non_tie`` where the reference prefers one and anything else than that side is wrong, ``with_ties`` over the classes
a, none, b. Three rows: segments, whole videos by majority of segments, whole videos asked about as such. What the judge
did not answer is wrong in ``non_tie``, left out of the others, and counted by its reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from densedpo.labels.accuracy.calibration_error import calibration
from densedpo.labels.accuracy.position import position
from densedpo.labels.accuracy.reference import Reference, majorities
from densedpo.labels.answers import WHOLE_CLIP, AnswerEvent, Question
from densedpo.labels.consensus import label_of
from densedpo.labels.reliability import Estimate, share

ROWS = {"segments": "segments", "clips_by_majority": "videos, by majority", "clips_asked": "videos, asked"}
COLUMNS = {"ties_skipped": "ties skipped", "non_tie": "no reference ties", "with_ties": "with ties"}
UNANSWERED = ("cannot_judge", "refused", "truncated", "malformed", "failed")
_CLASSES = {1: "a", 0: "none", -1: "b"}
Labels = Mapping[Question, int]


def accuracy_of(events: Sequence[AnswerEvent], reference: Reference) -> dict[str, Any]:
    """Return the report on every judge among ``events`` (current ones, one segment length), as plain values for JSON.

    A judge is an author of source ``judge`` that is not itself the reference; answers count whether trusted or not.
    """
    judges: dict[str, list[AnswerEvent]] = {}
    for event in events:
        if event.source == "judge" and event.author not in reference.authors and event.outcome != "withdrawn":
            judges.setdefault(event.author, []).append(event)
    reports = [judge_report(name, judges[name], reference) for name in sorted(judges)]
    return {"reference": reference.as_dict(), "judges": reports}


def judge_report(name: str, events: Sequence[AnswerEvent], reference: Reference) -> dict[str, Any]:
    """Return what the answers ``events`` of one judge are worth."""
    by_question = {(event.pair_id, event.segment): event for event in events}
    parts = {question for question in by_question if question[1] != WHOLE_CLIP}
    wholes = by_question.keys() - parts
    said = labels_of(by_question)
    on_parts = {question: label for question, label in said.items() if question in parts}
    compared = {
        "segments": (on_parts, reference.segments, parts),
        "clips_by_majority": (majorities(on_parts), reference.clips, {(pair_id, WHOLE_CLIP) for pair_id, _ in parts}),
        "clips_asked": (said, reference.clips, wholes),
    }
    both = [by_question[question] for question in sorted(parts & reference.segments.keys())]
    return {
        "judge": name,
        "settings_digests": sorted({event.settings_digest for event in events}),
        "untrusted": sum(not event.trusted for event in events),
        "compared": len(both),
        "unanswered": {reason: _unanswered(both, reason).as_dict() for reason in UNANSWERED},
        "table": {row: table_row(*between) for row, between in compared.items()},
        "confusion": {row: confusion(*between) for row, between in compared.items()},
        "position": position([event for event in events if event.segment != WHOLE_CLIP], reference.segments),
        "calibration": _calibration(both, reference.segments),
    }


def labels_of(events: Mapping[Question, AnswerEvent]) -> dict[Question, int]:
    """Return the labels in {-1, 0, +1} of what was answered; cannot_judge and failures say nothing."""
    return {
        question: label_of(event.answer)
        for question, event in events.items()
        if event.answer is not None and event.answer != "cannot_judge"
    }


def table_row(said: Labels, truth: Labels, asked: Collection[Question]) -> dict[str, Any]:
    """Return the accuracies of labels ``said`` on the questions ``asked``, one a column; intervals draw pairs again."""
    questions = sorted(truth.keys() & set(asked))
    columns = {
        "ties_skipped": [question for question in questions if truth[question] and said.get(question)],
        "non_tie": [question for question in questions if truth[question]],
        "with_ties": [question for question in questions if question in said],
    }
    return {
        column: share(
            [said.get(question) == truth[question] for question in chosen],
            [pair_id for pair_id, _ in chosen],
            "questions that both answered" if questions else "questions in common",
        ).as_dict()
        for column, chosen in columns.items()
    }


def confusion(said: Labels, truth: Labels, asked: Collection[Question]) -> dict[str, dict[str, int]]:
    """Return counts by the reference's class, then by the judge's: a, none, b, or unanswered."""
    table = {name: dict.fromkeys((*_CLASSES.values(), "unanswered"), 0) for name in _CLASSES.values()}
    for question in truth.keys() & set(asked):
        heard = _CLASSES[said[question]] if question in said else "unanswered"
        table[_CLASSES[truth[question]]][heard] += 1
    return table


def _unanswered(events: Sequence[AnswerEvent], reason: str) -> Estimate:
    hits = [reason in (event.answer, event.outcome) for event in events]
    return share(hits, [event.pair_id for event in events], "segments in common")


def _calibration(events: Sequence[AnswerEvent], truth: Labels) -> dict[str, Any]:
    """Return how the stated confidence of preferences fits how often the reference prefers the same side."""
    stated, right, pairs = [], [], []
    for event in events:
        if event.answer in ("a", "b") and event.confidence is not None:
            stated.append(event.confidence)
            right.append(label_of(event.answer) == truth[event.pair_id, event.segment])
            pairs.append(event.pair_id)
    return calibration(stated, right, pairs)
