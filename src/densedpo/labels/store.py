"""The label store: an append-only list of answers that survives kills and power cuts.

People's pages, judges and imports append here; consensus, audit and snapshots read. Nothing is ever changed or deleted:
a new answer to the same question is a new *revision*, and the newest revision counts. Saying again what already counts
adds nothing, so repeating a judge or an import is harmless. labels/database.py says where the events lie.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sql

from densedpo.keys import content_id
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.database import Database, Location
from densedpo.labels.schema import QUESTION, events, receipts

_FIELDS = tuple(field.name for field in dataclasses.fields(AnswerEvent))


@dataclass(frozen=True)
class StoredEvent:
    """An event as stored: its sequence number (from 1), its revision of the question (from 0), when (UTC, seconds)."""

    event_id: int
    revision: int
    created_s: float
    event: AnswerEvent


class LabelStore:
    """An open label store; use it in a ``with`` statement or call ``close``."""

    def __init__(self, database: Database) -> None:
        """Store answers in an open database; ``open`` opens one."""
        self.database = database
        self._reading = database.reading

    @classmethod
    def open(cls, location: Location) -> LabelStore:
        """Open the store at a path or PostgreSQL URL, making it if it is not there.

        Raises:
            LabelError: as ``Database.open``.
        """
        return cls(Database.open(location))

    def __enter__(self) -> LabelStore:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def close(self) -> None:
        """Close all connections; what was appended is already durable."""
        self.database.close()

    def append(self, wanted: Iterable[AnswerEvent]) -> int:
        """Store events in order in one transaction: all or none, durable on return.

        An event equal to the newest revision of its question adds nothing.

        Returns:
            The number of events added.

        Raises:
            LabelError: if the store stays locked by another process or cannot be written.
        """
        listed = list(wanted)
        if not listed:
            return 0
        with self.database.writing() as connection:
            return _append(connection, [(event, 0) for event in listed])

    def record(self, author: str, post_key: str, wanted: Iterable[AnswerEvent], seq: int = 0) -> int:
        """Store what one post of a page says, once, however often it arrives; durable on return.

        Posts of one author may arrive late and out of order: an answer with a lower ``seq`` than the one that counts
        is kept in the history, but the newer one goes on counting.

        Returns:
            The number of answers the post held, also when it had been stored before.

        Raises:
            LabelError: as ``append``.
        """
        listed = list(wanted)
        found = sql.select(receipts.c.stored).where(receipts.c.author == author, receipts.c.post_key == post_key)
        with self.database.writing() as connection:
            before = connection.scalar(found)
            if before is not None:
                return int(before)
            _append(connection, [(event, seq) for event in listed])
            row = {"author": author, "post_key": post_key, "stored": len(listed), "created_s": time.time()}
            connection.execute(receipts.insert(), row)
        return len(listed)

    def current(self) -> list[AnswerEvent]:
        """Return what counts now: the newest revision of every question, in order of storing."""
        with self.database.reading() as connection:
            return [stored.event for stored in read_current(connection)]

    def current_of(self, pair_id: str) -> list[AnswerEvent]:
        """Return what counts now about one pair, in order of storing."""
        with self.database.reading() as connection:
            return [stored.event for stored in read_current(connection, pair_id)]

    def events(self) -> list[StoredEvent]:
        """Return the whole history in order of storing."""
        with self.database.reading() as connection:
            return [stored for stored, _ in _read(connection, sql.select(events).order_by(events.c.event_id))]


def current_answers(location: Location) -> list[AnswerEvent]:
    """Return what counts now in the store at ``location``; nothing, and no file made, where there is no store yet."""
    if isinstance(location, Path) and not location.exists():
        return []
    with LabelStore.open(location) as store:
        return store.current()


def read_current(connection: sql.Connection, pair_id: str | None = None) -> list[StoredEvent]:
    """Return what counts now, of one pair if it is named, in order of storing."""
    return [stored for stored, _ in _read(connection, _current_query(pair_id))]


def _append(connection: sql.Connection, wanted: list[tuple[AnswerEvent, int]]) -> int:
    newest: dict[tuple[Any, ...], tuple[int, AnswerEvent, int]] = {}
    for pair_id in {event.pair_id for event, _ in wanted}:
        for stored, seq in _read(connection, _current_query(pair_id)):
            newest[_question(stored.event)] = (stored.revision, stored.event, seq)
    rows: list[dict[str, Any]] = []
    for event, seq in wanted:
        question = _question(event)
        revision, previous, previous_seq = newest.get(question, (-1, None, 0))
        # the same again, but later, is worth a row: what arrives late must not come between
        if event == previous and seq <= previous_seq:
            continue
        rows.append(_row(event, revision + 1, seq))
        newest[question] = (revision + 1, event, seq)
        if previous is not None and seq < previous_seq:
            # it came late: kept, and what it would have overruled is said again
            rows.append(_row(previous, revision + 2, previous_seq))
            newest[question] = (revision + 2, previous, previous_seq)
    if rows:
        connection.execute(events.insert(), rows)
    return len(rows)


def _question(event: AnswerEvent) -> tuple[Any, ...]:
    return tuple(getattr(event, name) for name in QUESTION)


def _row(event: AnswerEvent, revision: int, seq: int) -> dict[str, Any]:
    fields = {name: getattr(event, name) for name in _FIELDS}
    key = content_id(list(_question(event)), revision, length=32)
    return {**fields, "revision": revision, "idempotency_key": key, "created_s": time.time(), "seq": seq}


def _current_query(pair_id: str | None = None) -> sql.Select[Any]:
    newest = sql.select(sql.func.max(events.c.event_id)).group_by(*(events.c[name] for name in QUESTION))
    if pair_id is not None:
        newest = newest.where(events.c.pair_id == pair_id)
    return sql.select(events).where(events.c.event_id.in_(newest)).order_by(events.c.event_id)


def _read(connection: sql.Connection, query: sql.Select[Any]) -> Iterator[tuple[StoredEvent, int]]:
    for row in connection.execute(query).mappings():
        event = AnswerEvent(**{name: row[name] for name in _FIELDS})
        yield StoredEvent(row["event_id"], row["revision"], row["created_s"], event), row["seq"]
