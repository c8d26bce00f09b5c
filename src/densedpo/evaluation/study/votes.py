"""People's answers with the models' names back in them: what results and exports are made from.

study.db + study-plan.json -> Vote. From here on nothing is blind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from densedpo.errors import ProjectError
from densedpo.evaluation.study.plan import Item, Plan, read_plan
from densedpo.labels.answers import Answer, AnswerEvent, Side, Task
from densedpo.labels.store import LabelStore, StoredEvent, read_current
from densedpo.store.project import Project

STORE_FILE = "study.db"


@dataclass(frozen=True)
class Vote:
    """One person's answer to one question about one item.

    ``value`` is +1 where side a is preferred, -1 for side b, 0 for a tie and None where the person could not judge.
    """

    person: str
    item: Item
    question: str
    answer: Answer
    value: int | None
    task: Task
    shown_first: Side | None
    dwell_s: float | None
    note: str
    created_s: float

    @property
    def preferred(self) -> str:
        """Return the preferred model, ``tie`` or ``cannot_judge``."""
        sides = {"a": self.item.a.model, "b": self.item.b.model}
        return sides.get(self.answer, self.answer)


@dataclass(frozen=True)
class Answers:
    """All that people said: the plan, the current events, the votes, and how many answers are about retired items."""

    plan: Plan
    events: list[AnswerEvent]
    votes: list[Vote]
    retired: int


def read_answers(project: Project, name: str) -> Answers:
    """Return what people said in the study of evaluation ``name``.

    Raises:
        ProjectError: if no study was begun.
        LabelError: if the store cannot be read.
    """
    folder = project.evaluation(name)
    plan, store = read_plan(folder), folder / STORE_FILE
    if plan is None or not store.exists():
        raise ProjectError(f"{folder}: no study was begun; run `densedpo study serve --evaluation {name}` first")
    return answers_of(plan, _current(store))


def answers_of(plan: Plan, stored: Iterable[StoredEvent]) -> Answers:
    """Return what stored events say about the items of a plan; answers taken back count for nothing."""
    given = [one for one in stored if one.event.answer is not None and one.event.source == "person"]
    known = [one for one in given if one.event.pair_id in plan.items]
    votes = [_vote(plan, one) for one in known]
    return Answers(plan, [one.event for one in known], votes, len(given) - len(known))


def _vote(plan: Plan, stored: StoredEvent) -> Vote:
    event, values = stored.event, {"a": 1, "b": -1, "tie": 0}
    assert event.answer is not None
    return Vote(
        person=event.author,
        item=plan.items[event.pair_id],
        question=plan.questions[event.segment].code,
        answer=event.answer,
        value=values.get(event.answer),
        task=event.task,
        shown_first=event.shown_first,
        dwell_s=event.dwell_s,
        note=event.note,
        created_s=stored.created_s,
    )


def _current(store: Path) -> list[StoredEvent]:
    with LabelStore.open(store) as opened, opened.database.reading() as connection:
        return read_current(connection)
