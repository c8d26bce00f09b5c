"""How several people's answers become one label: four rules, chosen when labels are frozen.

All take usable events of one source kind and segment length, and give one ``Consensus`` a question; ``votes`` are
always the plain counts. ``cannot_judge`` abstains under every rule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from densedpo.errors import LabelError
from densedpo.labels.answers import ANSWERS, Answer, AnswerEvent, Question
from densedpo.labels.consensus import RULE, Consensus, by_question, consensus, label_of
from densedpo.labels.dawid_skene import posteriors

Rule = Literal["majority", "reviewer", "gold_weighted", "dawid_skene"]
RULES: tuple[Rule, ...] = get_args(Rule)
Decided = dict[Question, Consensus]
Decide = Callable[[Sequence[AnswerEvent]], Decided]
WORDS: dict[Rule, str] = {
    "majority": RULE,
    "reviewer": f"a reviewer's answer where there is one, else {RULE}",
    "gold_weighted": "most weight, log(2 p / (1 - p)) for gold accuracy p = (right + 1) / (asked + 2), people without "
    "gold answers at the average; shared first place is a tie; cannot_judge abstains; clip: own answers, else sign of "
    "segment sum",
    "dawid_skene": "Dawid and Skene's most likely truth over a, b and no preference; shared first place is a tie; "
    "cannot_judge abstains; clip: own answers, else sign of segment sum",
}
_CHOICES = 3
_SAME = 1e-9
_LABELS = (0, 1, -1)


def decider(rule: str, accuracy: Mapping[str, tuple[int, int]]) -> Decide:
    """Return the rule of this name; ``accuracy`` holds (right, asked) on known answers by person.

    Raises:
        LabelError: if there is no such rule, or it weighs by known answers and nobody gave any.
    """
    if rule == "gold_weighted":
        if not accuracy:
            raise LabelError("rule gold_weighted: nobody has answered a pair with known answers; see serve.gold_every")
        return lambda events: _weighted(events, gold_weights(accuracy, {event.author for event in events}))
    known: dict[str, Decide] = {"majority": by_question, "reviewer": reviewer_first, "dawid_skene": _dawid_skene}
    if rule not in known:
        raise LabelError(f"rule: {rule!r} is unknown; choose one of {', '.join(RULES)}")
    return known[rule]


def reviewer_first(events: Sequence[AnswerEvent]) -> Decided:
    """Return what reviewers say where one answered a question, and what most say elsewhere."""
    reviewed = {(event.pair_id, event.segment) for event in events if event.task == "review" and event.usable}
    return by_question(
        [event for event in events if event.task == "review" or (event.pair_id, event.segment) not in reviewed]
    )


def gold_weights(accuracy: Mapping[str, tuple[int, int]], authors: set[str]) -> dict[str, float]:
    """Return the weight of each person's vote, at least 0: log((K - 1) p / (1 - p)) for K = 3 preferences."""
    rights, asked = (sum(counts[part] for counts in accuracy.values()) for part in (0, 1))
    pooled = (rights + 1) / (asked + 2)
    weights = {}
    for author in authors:
        right, count = accuracy.get(author, (0, 0))
        p = (right + 1) / (count + 2) if count else pooled
        weights[author] = max(0.0, math.log((_CHOICES - 1) * p / (1 - p)))
    return weights


def _given(events: Sequence[AnswerEvent]) -> dict[Question, list[tuple[str, Answer]]]:
    given: dict[Question, list[tuple[str, Answer]]] = {}
    for event in events:
        if event.usable and event.answer is not None:
            given.setdefault((event.pair_id, event.segment), []).append((event.author, event.answer))
    return given


def _weighted(events: Sequence[AnswerEvent], weights: Mapping[str, float]) -> Decided:
    decided: Decided = {}
    for question, said in _given(events).items():
        totals: dict[Answer, float] = {}
        for author, answer in said:
            if answer != "cannot_judge":
                totals[answer] = totals.get(answer, 0.0) + weights[author]
        decided[question] = _first(totals, [answer for _, answer in said])
    return decided


def _first(totals: Mapping[Answer, float], answers: list[Answer]) -> Consensus:
    """Return the answer with the largest total; a shared first place is a tie, nothing but 0 the plain vote."""
    best = max(totals.values(), default=0.0)
    if best <= 0:
        return consensus(answers)
    first = [answer for answer, total in totals.items() if total >= best - _SAME]
    winner: Answer = first[0] if len(first) == 1 else "tie"
    return Consensus(winner, label_of(winner), _votes(answers))


def _dawid_skene(events: Sequence[AnswerEvent]) -> Decided:
    given = _given(events)
    judged = {
        question: {author: _LABELS.index(label_of(answer)) for author, answer in said if answer != "cannot_judge"}
        for question, said in given.items()
    }
    if max(map(len, judged.values()), default=0) == 1:
        # with one vote a question the model cannot tell habits from truth, and may call every preference a tie
        raise LabelError(
            "dawid_skene: no segment was answered by two people, which is how habits show; use --rule majority, or let "
            "people overlap (label serve --overlap 2)"
        )
    truth = posteriors({question: votes for question, votes in judged.items() if votes}, _CHOICES)
    decided: Decided = {}
    for question, said in given.items():
        answers = [answer for _, answer in said]
        if question not in truth:
            decided[question] = consensus(answers)
            continue
        ranked = sorted(range(_CHOICES), key=lambda choice: -truth[question][choice])
        shared = truth[question][ranked[0]] - truth[question][ranked[1]] <= _SAME
        label = 0 if shared else _LABELS[ranked[0]]
        decided[question] = Consensus(_answer(label, answers), label, _votes(answers))
    return decided


def _answer(label: int, answers: list[Answer]) -> Answer:
    if label:
        return "a" if label > 0 else "b"
    bad, tied = answers.count("both_bad"), answers.count("tie")
    return "both_bad" if bad > tied else "tie"


def _votes(answers: list[Answer]) -> dict[Answer, int]:
    votes = Counter(answers)
    return {answer: votes[answer] for answer in ANSWERS if votes[answer]}
