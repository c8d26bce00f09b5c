"""Which kind of task a person gets next: qualification, review, known answers, a repeat, or plain work.

Tasks that only measure the person come at random moments drawn from (annotator, number of the task), look like any
other, and their answers are never votes.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sql

from densedpo.config_labels import ServeSettings
from densedpo.errors import LabelError
from densedpo.keys import stream
from densedpo.labels.answers import Answer, Task
from densedpo.labels.database import Database
from densedpo.labels.people.roster import Person, Roster
from densedpo.labels.queue import Claim, Queue
from densedpo.labels.schema import claims
from densedpo.labels.store import LabelStore

_REPEAT_AFTER = 5


class NotQualifiedError(LabelError):
    """The person did not pass the qualification."""


class Assigner:
    """Chooses the next task of each person; ``gold`` maps pairs to the answers that are known to be right."""

    def __init__(
        self,
        database: Database,
        queue: Queue,
        roster: Roster,
        settings: ServeSettings,
        gold: Mapping[str, Mapping[int, Answer]],
    ) -> None:
        """Choose from ``queue`` and ``gold`` as the settings say."""
        self.gold = gold
        self._database = database
        self._queue = queue
        self._roster = roster
        self._settings = settings

    def must_qualify(self, person: Person) -> bool:
        """Say whether this person has a qualification before them."""
        return bool(self._settings.qualification and self.gold and person.role == "annotator" and not person.qualified)

    def take(self, person: Person) -> Claim | None:
        """Claim the next task; None: nothing is left for this person, or nothing before their qualification is judged.

        Raises:
            NotQualifiedError: if they failed the qualification.
        """
        if self.must_qualify(person):
            if person.qualified is False:
                raise NotQualifiedError("the qualification was not passed; ask whoever invited you")
            return self._take_gold(person, "qualification", self._settings.qualification)
        if person.role == "reviewer":
            review = self._queue.take_review(person.name)
            if review is not None:
                return review
        count = self._count(person.name)
        rng = stream("labels", "measuring tasks", person.name, count)
        gold_draw, repeat_draw, which = rng.uniform(), rng.uniform(), rng.uniform()
        measuring: Claim | None = None
        if self._settings.gold_every and gold_draw < 1 / self._settings.gold_every:
            measuring = self._take_gold(person, "gold", len(self.gold))
        if measuring is None and self._settings.repeat_every and repeat_draw < 1 / self._settings.repeat_every:
            measuring = self._take_repeat(person, which)
        return measuring or self._queue.take_work(person.name)

    def finish_qualification(self, person: Person, store: LabelStore) -> None:
        """Judge the qualification once all its pairs are submitted."""
        wanted = min(self._settings.qualification, len(self.gold))
        done = self._pairs(person.name, "qualification", submitted=True)
        if len(done) < wanted:
            return
        right = asked = 0
        for pair_id in done:
            for event in store.current_of(pair_id):
                expected = self.gold.get(pair_id, {}).get(event.segment)
                if event.author == person.name and event.task == "qualification" and expected is not None:
                    asked += 1
                    right += event.answer == expected
        self._roster.mark_qualified(person.name, asked > 0 and right / asked >= self._settings.qualification_accuracy)

    def _take_gold(self, person: Person, task: Task, limit: int) -> Claim | None:
        had = self._pairs(person.name, "qualification") | self._pairs(person.name, "gold")
        if task == "qualification" and len(had) >= limit:
            return None
        order = stream("labels", "gold order", person.name).permutation(sorted(self.gold))
        pair_id = next((str(name) for name in order if str(name) not in had), None)
        return None if pair_id is None else self._queue.take_measuring(person.name, pair_id, task)

    def _take_repeat(self, person: Person, which: float) -> Claim | None:
        done = self._pairs(person.name, "work", submitted=True)
        candidates = sorted(done - self._pairs(person.name, "repeat"))
        if len(done) < _REPEAT_AFTER or not candidates:
            return None
        return self._queue.take_measuring(person.name, candidates[int(which * len(candidates))], "repeat")

    def _count(self, annotator: str) -> int:
        wanted = sql.select(sql.func.count()).select_from(claims).where(claims.c.annotator == annotator)
        with self._database.reading() as connection:
            return int(connection.scalar(wanted) or 0)

    def _pairs(self, annotator: str, task: Task, *, submitted: bool = False) -> set[str]:
        wanted = sql.select(claims.c.pair_id).where(claims.c.annotator == annotator, claims.c.task == task)
        if submitted:
            wanted = wanted.where(claims.c.submitted_s.is_not(None))
        with self._database.reading() as connection:
            return set(connection.scalars(wanted))
