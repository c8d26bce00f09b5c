"""Who gets which pair next: overlap, leases, reviews, and measuring tasks that look like any other.

A pair is wanted ``overlap`` times. Taking one claims one of its places for ``lease_s`` seconds; a heartbeat renews the
lease, a lease that runs out gives the place back. Every step is one transaction under the write lock, so two people can
never hold the same place. Answers never depend on a lease: those of a person who came too late are kept as surplus.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sql

from densedpo.errors import LabelError
from densedpo.labels.answers import Task
from densedpo.labels.database import Database
from densedpo.labels.schema import claims, queue

State = Literal["leased", "submitted", "expired", "surplus"]
# (person, open pairs with the places left in each, pairs they had) -> one of the open pairs
Choose = Callable[[str, Mapping[str, int], Collection[str]], str]
REVIEW_SLOT = -1
_RELEASED_AT_ONCE = 100


@dataclass(frozen=True)
class Claim:
    """One pair in one person's hands: an id that tells nothing, what for, and until when (UTC, seconds)."""

    task_id: str
    pair_id: str
    annotator: str
    task: Task
    state: State
    lease_until_s: float
    created_s: float
    submitted_s: float | None

    @property
    def submitted(self) -> bool:
        """Whether the person called it done."""
        return self.submitted_s is not None


class Queue:
    """The order of work over one database; threads and processes may share it."""

    def __init__(
        self,
        database: Database,
        overlap: int,
        lease_s: float,
        clock: Callable[[], float] = time.time,
        choose: Choose | None = None,
    ) -> None:
        """Work on the queue in ``database`` with ``overlap`` people a pair and leases of ``lease_s`` seconds.

        Everybody gets the pairs in the queue's order, unless ``choose`` picks from what is open.
        """
        self._choose = choose
        self.lease_s = lease_s
        self._database = database
        self._overlap = overlap
        self._clock = clock
        # Where each person's search for work starts: all before it was theirs or taken. A hint, never trusted.
        self._starts: dict[str, int] = {}

    def fill(self, pair_ids: Sequence[str]) -> None:
        """Make the queue hold exactly these pairs, in this order; what was done stays done."""
        ranks = {pair_id: rank for rank, pair_id in enumerate(pair_ids)}
        held = (
            sql.select(claims.c.pair_id, sql.func.count().label("held"))
            .where(claims.c.slot >= 0)
            .group_by(claims.c.pair_id)
        )
        done = (
            sql.select(claims.c.pair_id, sql.func.count().label("done"))
            .where(claims.c.slot >= 0, claims.c.submitted_s.is_not(None))
            .group_by(claims.c.pair_id)
        )
        with self._database.writing() as connection:
            taken = {row.pair_id: row.held for row in connection.execute(held)}
            finished = {row.pair_id: row.done for row in connection.execute(done)}
            kept = sql.select(queue.c.pair_id, queue.c.disagreement).where(queue.c.disagreement > 0)
            disagreement = {row.pair_id: row.disagreement for row in connection.execute(kept)}
            connection.execute(queue.delete())
            rows = [
                {
                    "pair_id": pair_id,
                    "rank": rank,
                    "free": max(0, self._overlap - taken.get(pair_id, 0)),
                    "open": taken.get(pair_id, 0) < self._overlap,
                    "done": finished.get(pair_id, 0),
                    "disagreement": disagreement.get(pair_id, 0),
                }
                for pair_id, rank in ranks.items()
            ]
            if rows:
                connection.execute(queue.insert(), rows)
        self._starts.clear()

    def held(self, annotator: str) -> list[Claim]:
        """Return what a person has in hand, longest held first; the newest request gets the same back."""
        wanted = sql.select(claims).where(claims.c.annotator == annotator, claims.c.state == "leased")
        with self._database.reading() as connection:
            return _claims(connection, wanted.order_by(claims.c.created_s, claims.c.task_id))

    def take_work(self, annotator: str) -> Claim | None:
        """Claim the next pair this person has not had; what they let slip comes first. None: nothing is left."""
        with self._database.writing() as connection:
            self._release(connection)
            again = self._take_again(connection, annotator)
            if again is not None:
                return again
            pair_id = self._next_free(connection, annotator)
            if pair_id is None:
                return None
            return self._claim(connection, annotator, pair_id, "work", self._free_slot(connection, pair_id))

    def take_review(self, annotator: str) -> Claim | None:
        """Claim the next pair whose labellers disagree and that this person has not had."""
        reviewing = sql.select(claims.c.task_id).where(
            claims.c.pair_id == queue.c.pair_id,
            (claims.c.annotator == annotator) | (claims.c.slot == REVIEW_SLOT),
        )
        wanted = sql.select(queue.c.pair_id).where(queue.c.disagreement == 1, ~reviewing.exists())
        with self._database.writing() as connection:
            self._release(connection)
            pair_id = connection.scalar(wanted.order_by(queue.c.rank).limit(1))
            return None if pair_id is None else self._claim(connection, annotator, pair_id, "review", REVIEW_SLOT)

    def take_measuring(self, annotator: str, pair_id: str, task: Task) -> Claim | None:
        """Claim a pair for a task that only measures the person; None if they had it for this task already."""
        had = sql.select(claims.c.task_id).where(
            claims.c.annotator == annotator, claims.c.pair_id == pair_id, claims.c.task == task
        )
        with self._database.writing() as connection:
            if connection.scalar(had) is not None:
                return None
            return self._claim(connection, annotator, pair_id, task, None)

    def find(self, task_id: str, annotator: str) -> Claim | None:
        """Return a person's own claim by its id; None where there is none, or it is somebody else's."""
        wanted = sql.select(claims).where(claims.c.task_id == task_id, claims.c.annotator == annotator)
        with self._database.reading() as connection:
            found = _claims(connection, wanted)
        return found[0] if found else None

    def renew(self, task_ids: Sequence[str], annotator: str) -> list[str]:
        """Renew a person's leases; return the ids of those that went to somebody else meanwhile."""
        lost = []
        with self._database.writing() as connection:
            for claim in _claims(connection, _own(task_ids, annotator)):
                if claim.submitted:
                    continue
                if claim.state == "leased" or self._reclaim(connection, claim):
                    self._set(connection, claim, lease_until_s=self._clock() + self.lease_s)
                else:
                    lost.append(claim.task_id)
        return lost

    def submit(self, task_id: str, annotator: str, disagreement: Callable[[sql.Connection, str], bool]) -> State:
        """Call a claim done; repeating it changes nothing.

        Args:
            task_id: the claim.
            annotator: whose it is.
            disagreement: asked, inside the transaction, whether the answers to a pair disagree; only where at least
                two people are done with it.

        Returns:
            ``submitted``, or ``surplus`` where the lease had run out and others filled the place.

        Raises:
            LabelError: if this person holds no such claim.
        """
        with self._database.writing() as connection:
            found = _claims(connection, _own([task_id], annotator))
            if not found:
                raise LabelError(f"task {task_id!r} is not yours")
            claim = found[0]
            if claim.submitted:
                return claim.state
            state: State = "submitted"
            if claim.state != "leased" and not self._reclaim(connection, claim):
                state = "surplus"
            self._set(connection, claim, state=state, submitted_s=self._clock())
            done = 1 if claim.task == "work" and state == "submitted" else 0
            row = queue.update().where(queue.c.pair_id == claim.pair_id)
            if done:
                connection.execute(row.values(done=queue.c.done + 1))
            if claim.task == "review":
                connection.execute(row.values(disagreement=2))
            elif claim.task == "work" and self._several_done(connection, claim.pair_id):
                found_one = disagreement(connection, claim.pair_id)
                connection.execute(row.where(queue.c.disagreement < 2).values(disagreement=int(found_one)))
            return state

    def history(self, annotator: str, limit: int) -> list[Claim]:
        """Return a person's claims, the newest first."""
        wanted = sql.select(claims).where(claims.c.annotator == annotator)
        newest = sql.func.coalesce(claims.c.submitted_s, claims.c.created_s)
        with self._database.reading() as connection:
            return _claims(connection, wanted.order_by(newest.desc(), claims.c.task_id).limit(limit))

    def _next_free(self, connection: sql.Connection, annotator: str) -> str | None:
        mine = sql.select(claims.c.task_id).where(claims.c.pair_id == queue.c.pair_id, claims.c.annotator == annotator)
        if self._choose is not None:
            left = sql.select(queue.c.pair_id, queue.c.free).where(queue.c.open, ~mine.exists()).order_by(queue.c.rank)
            had = sql.select(claims.c.pair_id).where(claims.c.annotator == annotator, claims.c.task == "work")
            offered = {row.pair_id: row.free for row in connection.execute(left)}
            return self._choose(annotator, offered, list(connection.scalars(had))) if offered else None
        start = self._starts.get(annotator, 0)
        for first in dict.fromkeys((start, 0)):
            wanted = sql.select(queue.c.pair_id, queue.c.rank).where(
                queue.c.open, queue.c.rank >= first, ~mine.exists()
            )
            row = connection.execute(wanted.order_by(queue.c.rank).limit(1)).first()
            if row is not None:
                self._starts[annotator] = row.rank
                return str(row.pair_id)
        return None

    def _free_slot(self, connection: sql.Connection, pair_id: str) -> int | None:
        used = sql.select(claims.c.slot).where(claims.c.pair_id == pair_id, claims.c.slot >= 0)
        taken = set(connection.scalars(used))
        return next((slot for slot in range(self._overlap) if slot not in taken), None)

    def _claim(self, connection: sql.Connection, annotator: str, pair_id: str, task: Task, slot: int | None) -> Claim:
        now = self._clock()
        claim = Claim(secrets.token_hex(16), pair_id, annotator, task, "leased", now + self.lease_s, now, None)
        connection.execute(claims.insert(), {**vars(claim), "slot": slot})
        if task == "work":
            self._change_free(connection, pair_id, -1)
        return claim

    def _take_again(self, connection: sql.Connection, annotator: str) -> Claim | None:
        """Give back what this person let slip, where it is still wanted."""
        let_slip = sql.select(claims).where(claims.c.annotator == annotator, claims.c.state == "expired")
        for claim in _claims(connection, let_slip.order_by(claims.c.created_s)):
            if self._reclaim(connection, claim):
                until = self._clock() + self.lease_s
                self._set(connection, claim, lease_until_s=until)
                return dataclasses.replace(claim, state="leased", lease_until_s=until)
        return None

    def _reclaim(self, connection: sql.Connection, claim: Claim) -> bool:
        """Take an expired claim's place again, if one is free; measuring tasks need none."""
        slot: int | None = None
        if claim.task == "work":
            slot = self._free_slot(connection, claim.pair_id)
            wanted = connection.scalar(sql.select(queue.c.open).where(queue.c.pair_id == claim.pair_id))
            if slot is None or not wanted:
                return False
            self._change_free(connection, claim.pair_id, -1)
        elif claim.task == "review":
            holder = sql.select(claims.c.task_id).where(claims.c.pair_id == claim.pair_id, claims.c.slot == REVIEW_SLOT)
            if connection.scalar(holder) is not None:
                return False
            slot = REVIEW_SLOT
        self._set(connection, claim, state="leased", slot=slot)
        return True

    def _release(self, connection: sql.Connection) -> None:
        """Give back the places of leases that ran out."""
        late = sql.select(claims).where(claims.c.state == "leased", claims.c.lease_until_s < self._clock())
        for claim in _claims(connection, late.limit(_RELEASED_AT_ONCE)):
            self._set(connection, claim, state="expired", slot=None)
            if claim.task == "work":
                self._change_free(connection, claim.pair_id, 1)
                self._starts.clear()

    @staticmethod
    def _change_free(connection: sql.Connection, pair_id: str, by: int) -> None:
        free = queue.c.free + by
        connection.execute(queue.update().where(queue.c.pair_id == pair_id).values(free=free, open=free > 0))

    @staticmethod
    def _set(connection: sql.Connection, claim: Claim, **values: Any) -> None:
        connection.execute(claims.update().where(claims.c.task_id == claim.task_id).values(**values))

    @staticmethod
    def _several_done(connection: sql.Connection, pair_id: str) -> bool:
        done = sql.select(sql.func.count()).where(
            claims.c.pair_id == pair_id, claims.c.task == "work", claims.c.submitted_s.is_not(None)
        )
        return int(connection.scalar(done) or 0) > 1


def _own(task_ids: Sequence[str], annotator: str) -> sql.Select[Any]:
    return sql.select(claims).where(claims.c.task_id.in_(task_ids), claims.c.annotator == annotator)


def _claims(connection: sql.Connection, wanted: sql.Select[Any]) -> list[Claim]:
    rows = connection.execute(wanted).mappings()
    return [Claim(**{name: value for name, value in row.items() if name != "slot"}) for row in rows]
