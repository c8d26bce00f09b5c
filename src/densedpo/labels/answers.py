"""One answer to "which side is better here?", checked when it is made.

The vocabulary of labelling: every person, judge and simulated annotator says one of five answers about one segment (or
the whole clip) of one pair, or fails to say anything usable, which is an outcome of its own. Absent means unlabelled,
never tie. Answers are stored by labels/store.py and become labels in labels/consensus.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeGuard, get_args

from densedpo.errors import LabelError

Answer = Literal["a", "b", "tie", "both_bad", "cannot_judge"]
Outcome = Literal["ok", "refused", "truncated", "malformed", "failed", "withdrawn"]
Source = Literal["person", "judge", "simulated"]
Task = Literal["work", "review", "gold", "repeat", "qualification"]
Side = Literal["a", "b"]
Tag = Literal["limbs", "morphing", "blur", "popping", "impossible_motion"]

ANSWERS: tuple[Answer, ...] = get_args(Answer)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SOURCES: tuple[Source, ...] = get_args(Source)
TASKS: tuple[Task, ...] = get_args(Task)
VOTING_TASKS: tuple[Task, ...] = ("work", "review")
SIDES: tuple[Side, ...] = get_args(Side)
TAGS: tuple[Tag, ...] = get_args(Tag)
WHOLE_CLIP = -1
Question = tuple[str, int]  # the pair's id and the segment, which is what an answer is about
_NUMBERS = ("segment_s", "start_s", "end_s", "confidence", "dwell_s")


@dataclass(frozen=True)
class AnswerEvent:
    """What one author said, once, about one segment of one pair.

    ``segment`` counts from 0 on the grid of ``segment_s`` seconds; WHOLE_CLIP (-1) is the clip as a whole. ``start_s``
    and ``end_s`` are the part of the clip that was shown. ``answer`` is None exactly when ``outcome`` is not "ok".
    ``confidence`` is in [0, 1]. ``settings_digest`` identifies what made a machine's answer, or what a person was told
    and shown. Events that are not ``trusted`` (failed attention checks, say) are kept but never counted.

    A person's answer also says for which ``task`` it was given (``work`` and ``review`` count as votes, the others
    only measure the person), how long it took (``dwell_s``), which side was ``shown_first``, whether a tie was
    ``offered`` and taken, ``tags`` of the artifacts seen (comma-separated) and a ``note``. A person who takes an answer
    back appends the outcome ``withdrawn``.

    Raises:
        LabelError: naming the pair, the segment and the field that is wrong.
    """

    pair_id: str
    segment: int
    answer: Answer | None
    outcome: Outcome
    source: Source
    author: str
    segment_s: float
    start_s: float
    end_s: float
    confidence: float | None = None
    reason: str = ""
    raw: str = ""
    settings_digest: str = ""
    trusted: bool = True
    task: Task = "work"
    tags: str = ""
    note: str = ""
    dwell_s: float | None = None
    shown_first: Side | None = None
    offered: bool = False

    def __post_init__(self) -> None:
        """Check every field."""
        _check(vars(self))

    @property
    def usable(self) -> bool:
        """Whether this event counts towards a label: an answer, given as a vote, by a trusted author."""
        return self.outcome == "ok" and self.trusted and self.task in VOTING_TASKS


def event_from(values: Mapping[str, Any]) -> AnswerEvent:
    """Return the event that untyped ``values`` (read from a file, say) describe, by field name.

    Raises:
        LabelError: naming the pair, the segment and the field that is wrong.
    """
    known = {**_DEFAULTS, **values}
    _check(known)
    return AnswerEvent(**{**known, **{name: float(known[name]) for name in _NUMBERS if known[name] is not None}})


_DEFAULTS = {field.name: field.default for field in fields(AnswerEvent) if field.default is not MISSING}


def _check(values: Mapping[str, Any]) -> None:
    given = values.get
    outcome, answer, confidence = given("outcome"), given("answer"), given("confidence")
    segment_s, start_s, end_s, dwell_s = given("segment_s"), given("start_s"), given("end_s"), given("dwell_s")
    answer_fits, answer_rule = answer is None, f"none, since the outcome is {outcome}"
    if outcome == "ok":
        answer_fits, answer_rule = answer in ANSWERS, f"one of {', '.join(ANSWERS)}"
    demands = {
        "pair_id": (_is_text(given("pair_id")), "a non-empty text"),
        "segment": (_is_segment(given("segment")), "a whole number from 0, or -1 for the whole clip"),
        "outcome": (outcome in OUTCOMES, f"one of {', '.join(OUTCOMES)}"),
        "answer": (answer_fits, answer_rule),
        "source": (given("source") in SOURCES, f"one of {', '.join(SOURCES)}"),
        "author": (_is_text(given("author")), "a non-empty text"),
        "segment_s": (_is_number(segment_s) and segment_s > 0, "a positive number of seconds"),
        "start_s": (_is_number(start_s) and start_s >= 0, "a number of seconds from 0"),
        "end_s": (_is_number(start_s) and _is_number(end_s) and start_s < end_s, "a number of seconds after start_s"),
        "confidence": (
            confidence is None or (_is_number(confidence) and 0 <= confidence <= 1),
            "a number from 0 to 1, or nothing",
        ),
        "task": (given("task") in TASKS, f"one of {', '.join(TASKS)}"),
        "tags": (_are_tags(given("tags")), f"some of {','.join(TAGS)}, in this order"),
        "dwell_s": (
            dwell_s is None or (_is_number(dwell_s) and dwell_s >= 0),
            "a number of seconds from 0, or nothing",
        ),
        "shown_first": (given("shown_first") in ("a", "b", None), "a, b or nothing"),
        **{name: (isinstance(given(name), bool), "true or false") for name in ("trusted", "offered")},
        **{name: (isinstance(given(name), str), "a text") for name in ("reason", "raw", "settings_digest", "note")},
    }
    for field, (right, expected) in demands.items():
        if not right:
            where = f"pair {given('pair_id')!r}, segment {given('segment')!r}"
            raise LabelError(f"answer for {where}: {field} must be {expected}, got {given(field)!r}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_tags(value: object) -> bool:
    return isinstance(value, str) and value == ",".join(tag for tag in TAGS if tag in value.split(","))


def _is_segment(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= WHOLE_CLIP


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
