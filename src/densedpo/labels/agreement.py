"""``densedpo label agreement``: do people agree, with each other, with themselves, with what is known, with judges?

Reads what counts now; every number comes with its interval and the number of units behind it, or with the reason why it
does not exist. Alpha is given twice: over the answers as they are, and over preferences in order (b < none < a).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from densedpo.labels.accuracy.reference import reference
from densedpo.labels.accuracy.table import accuracy_of
from densedpo.labels.accuracy.text import accuracy_lines, told
from densedpo.labels.answers import ANSWERS, Answer, AnswerEvent, Question
from densedpo.labels.consensus import consensus, label_of
from densedpo.labels.gold import load_gold
from densedpo.labels.quality import FLAG_RULES, Gold, people_quality
from densedpo.labels.reliability import Estimate, absent, cohen, krippendorff, share
from densedpo.labels.store import current_answers
from densedpo.store.files import write_json
from densedpo.store.project import Project

SCHEMA_VERSION = 1
_NOMINAL: tuple[Answer, ...] = ("a", "b", "tie", "both_bad")
_COUPLES_AT_MOST = 45


def agreement(project: Project, segment_s: float, against: str | None = None) -> dict[str, Any]:
    """Return all measures of agreement over the project's current answers, as plain values for JSON.

    With ``against`` (people, gold, simulated or an author), also how right the judges are (labels/accuracy/table.py),
    which is kept for the report.

    Raises:
        LabelError: if there is nothing to measure judges against.
    """
    events, gold = current_answers(project.label_store), load_gold(project, segment_s)
    found = {"segment_s": segment_s, **agreement_of(events, gold, segment_s)}
    if against is not None:
        chosen = [event for event in events if event.segment_s == segment_s]
        found["accuracy"] = accuracy_of(chosen, reference(chosen, gold, against))
        write_json(project.accuracy_file, found["accuracy"])
    return found


def agreement_of(events: Sequence[AnswerEvent], gold: Gold, segment_s: float) -> dict[str, Any]:
    """Return all measures of agreement over ``events``: those of one segment length, of people and of judges."""
    chosen = [event for event in events if event.segment_s == segment_s and event.outcome == "ok"]
    people = [event for event in chosen if event.source == "person"]
    votes = [event for event in people if event.usable and event.task == "work"]
    said = _by_person(votes)
    questions = {(event.pair_id, event.segment) for event in votes}
    shared = [question for question in questions if sum(question in own for own in said.values()) > 1]
    return {
        "schema_version": SCHEMA_VERSION,
        "people": [person.as_dict() for person in people_quality(people, gold)],
        "flag_rules": FLAG_RULES,
        "questions": len(questions),
        "answered_by_several": len(shared),
        "agreement": [{"name": name, **value.as_dict()} for name, value in _overall(said).items()],
        "couples": _couples(said),
        "against_judges": _against_judges(votes, chosen),
        "answers": {answer: sum(event.answer == answer for event in votes) for answer in ANSWERS},
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return the measures as lines for people."""
    lines = [f"{item['name']}: {told(item)}" for item in found["agreement"]]
    lines += [f"{item['name']}: {told(item)}" for item in found["against_judges"] if item["n"]]
    lines += [f"{' and '.join(item['people'])}: {item['name']}: {told(item)}" for item in found["couples"]]
    names = {
        "gold": "accuracy on known answers", "self_consistency": "self-consistency", "first_rate": "first side chosen",
        "tie_rate": "ties", "dwell_s": "seconds an answer",
    }  # fmt: skip
    for person in found["people"]:
        lines += [f"{person['author']}: {words}: {told(person[name])}" for name, words in names.items()]
        if person["flags"]:
            lines.append(f"{person['author']}: flagged: {', '.join(person['flags'])}")
    return lines + accuracy_lines(found["accuracy"]) if "accuracy" in found else lines


def _by_person(votes: Sequence[AnswerEvent]) -> dict[str, dict[Question, Answer]]:
    said: dict[str, dict[Question, Answer]] = {}
    for event in votes:
        # who cannot judge abstains
        if event.answer is not None and event.answer != "cannot_judge":
            said.setdefault(event.author, {})[event.pair_id, event.segment] = event.answer
    return said


def _overall(said: dict[str, dict[Question, Answer]]) -> dict[str, Estimate]:
    if len(said) < 2:
        reason = "fewer than two people have answered"
        names = ("Krippendorff's alpha, nominal", "Krippendorff's alpha, ordinal", "raw agreement")
        return {name: absent(reason) for name in names}
    nominal: dict[Question, list[int]] = {}
    ordinal: dict[Question, list[int]] = {}
    for own in said.values():
        for question, answer in own.items():
            nominal.setdefault(question, []).append(_NOMINAL.index(answer))
            ordinal.setdefault(question, []).append(label_of(answer) + 1)
    couples = [
        (question[0], one == other) for question, given in nominal.items() for one, other in combinations(given, 2)
    ]
    return {
        "Krippendorff's alpha, nominal": krippendorff(nominal, len(_NOMINAL), "nominal"),
        "Krippendorff's alpha, ordinal": krippendorff(ordinal, 3, "ordinal"),
        "raw agreement": share([same for _, same in couples], [pair for pair, _ in couples], "shared answers"),
    }


def _couples(said: dict[str, dict[Question, Answer]]) -> list[dict[str, Any]]:
    """Return Cohen's kappa of the couples that share most, at most ``_COUPLES_AT_MOST`` of them."""
    shared = Counter({(one, other): len(said[one].keys() & said[other].keys()) for one, other in combinations(said, 2)})
    found = []
    for (one, other), _ in shared.most_common(_COUPLES_AT_MOST):
        both = sorted(said[one].keys() & said[other].keys())
        given = [
            (question[0], _NOMINAL.index(said[one][question]), _NOMINAL.index(said[other][question]))
            for question in both
        ]
        kappa = cohen(given, len(_NOMINAL))
        found.append({"people": [one, other], "name": "Cohen's kappa", **kappa.as_dict()})
    return found


def _against_judges(votes: Sequence[AnswerEvent], chosen: Sequence[AnswerEvent]) -> list[dict[str, Any]]:
    """Return how each judge agrees with most people: kappa over preferences, and the share where both have one."""
    given: dict[Question, list[Answer]] = {}
    for event in votes:
        if event.answer is not None and event.answer != "cannot_judge":
            given.setdefault((event.pair_id, event.segment), []).append(event.answer)
    people = {question: consensus(answers).label for question, answers in given.items()}
    judges: dict[str, dict[Question, int]] = {}
    for event in chosen:
        if event.source == "judge" and event.answer is not None and event.answer != "cannot_judge":
            judges.setdefault(event.author, {})[event.pair_id, event.segment] = label_of(event.answer)
    found = []
    for name, said in sorted(judges.items()):
        both = sorted(said.keys() & people.keys())
        kappa = cohen([(pair, people[pair, part] + 1, said[pair, part] + 1) for pair, part in both], 3)
        decided = [question for question in both if said[question] and people[question]]
        same = share(
            [said[question] == people[question] for question in decided],
            [pair for pair, _ in decided],
            "segments where both prefer a side",
        )
        found.append({"name": f"{name}: Cohen's kappa", "judge": name, **kappa.as_dict()})
        found.append({"name": f"{name}: same side, ties left out", "judge": name, **same.as_dict()})
    return found
