"""The label store: an append-only list of answers that survives kills and power cuts.

People's pages, judges and imports append here; consensus, audit and snapshots read. SQLAlchemy Core on SQLite (WAL,
synchronous FULL, BEGIN IMMEDIATE); nothing in the table is peculiar to SQLite. Nothing is ever changed or deleted: a
new answer to the same question is a new *revision*, and the newest revision counts. Saying again what already counts
adds nothing, so repeating a judge or an import is harmless.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sql

from densedpo.errors import LabelError
from densedpo.keys import content_id
from densedpo.labels.answers import AnswerEvent
from densedpo.store.files import fsync_folder

_SCHEMA_VERSION = 1
_BUSY_TIMEOUT_MS = 30_000
# What is asked: who answers about which part of which pair. Segments of another length are other questions.
_QUESTION = ("pair_id", "segment_s", "segment", "source", "author")
_FIELDS = tuple(field.name for field in dataclasses.fields(AnswerEvent))

_schema = sql.MetaData()
_about = sql.Table("about", _schema, sql.Column("schema_version", sql.Integer, primary_key=True, autoincrement=False))
_events = sql.Table(
    "events",
    _schema,
    sql.Column("event_id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("idempotency_key", sql.String(32), nullable=False, unique=True),
    sql.Column("revision", sql.Integer, nullable=False),
    sql.Column("created_s", sql.Double, nullable=False),
    sql.Column("pair_id", sql.Text, nullable=False),
    sql.Column("segment", sql.Integer, nullable=False),
    sql.Column("answer", sql.String(16)),
    sql.Column("outcome", sql.String(16), nullable=False),
    sql.Column("source", sql.String(16), nullable=False),
    sql.Column("author", sql.Text, nullable=False),
    sql.Column("segment_s", sql.Double, nullable=False),
    sql.Column("start_s", sql.Double, nullable=False),
    sql.Column("end_s", sql.Double, nullable=False),
    sql.Column("confidence", sql.Double),
    sql.Column("reason", sql.Text, nullable=False),
    sql.Column("raw", sql.Text, nullable=False),
    sql.Column("settings_digest", sql.String(64), nullable=False),
    sql.Column("trusted", sql.Boolean, nullable=False),
    sql.UniqueConstraint(*_QUESTION, "revision", name="one_revision"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True)
class StoredEvent:
    """An event as stored: its sequence number (from 1), its revision of the question (from 0), when (UTC, seconds)."""

    event_id: int
    revision: int
    created_s: float
    event: AnswerEvent


class LabelStore:
    """An open label store; use it in a ``with`` statement or call ``close``."""

    def __init__(self, engine: sql.Engine, path: Path) -> None:
        """Wrap an engine whose tables exist; use ``open`` instead."""
        self._engine = engine
        self._path = path

    @classmethod
    def open(cls, path: Path) -> LabelStore:
        """Open the store at ``path``, making it if it is not there.

        Raises:
            LabelError: if the file is not a label store, or was written by a newer version.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        engine = sql.create_engine(sql.URL.create("sqlite", database=str(path)))
        sql.event.listen(engine, "connect", _prepare)
        store = cls(engine, path)
        try:
            with store._writing() as connection:
                _schema.create_all(connection)
                version = connection.scalar(sql.select(_about.c.schema_version))
                if version is None:
                    connection.execute(_about.insert().values(schema_version=_SCHEMA_VERSION))
                elif version != _SCHEMA_VERSION:
                    raise LabelError(
                        f"{path}: label store of version {version}, not {_SCHEMA_VERSION}; use the densedpo of then"
                    )
        except LabelError:
            engine.dispose()
            raise
        if fresh:
            fsync_folder(path.parent)
        return store

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
        self._engine.dispose()

    def append(self, events: Iterable[AnswerEvent]) -> int:
        """Store ``events`` in order in one transaction: all or none, durable on return.

        An event equal to the newest revision of its question adds nothing.

        Returns:
            The number of events added.

        Raises:
            LabelError: if the store stays locked by another process or cannot be written.
        """
        wanted = list(events)
        if not wanted:
            return 0
        rows: list[dict[str, Any]] = []
        with self._writing() as connection:
            newest: dict[tuple[Any, ...], tuple[int, AnswerEvent]] = {}
            for pair_id in {event.pair_id for event in wanted}:
                for stored in _read(connection, _current_query(pair_id)):
                    newest[_question(stored.event)] = (stored.revision, stored.event)
            for event in wanted:
                revision, previous = newest.get(_question(event), (-1, None))
                if event == previous:
                    continue
                newest[_question(event)] = (revision + 1, event)
                rows.append(_row(event, revision + 1))
            if rows:
                connection.execute(_events.insert(), rows)
        return len(rows)

    def current(self) -> list[AnswerEvent]:
        """Return what counts now: the newest revision of every question, in order of storing."""
        with self._reading() as connection:
            return [stored.event for stored in _read(connection, _current_query())]

    def events(self) -> list[StoredEvent]:
        """Return the whole history in order of storing."""
        with self._reading() as connection:
            return list(_read(connection, sql.select(_events).order_by(_events.c.event_id)))

    @contextmanager
    def _writing(self) -> Iterator[sql.Connection]:
        with self._naming_errors(), self._engine.begin() as connection:
            # Taking the write lock first means that what is read inside cannot change before it is written.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sql.Connection]:
        with self._naming_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except sql.exc.DBAPIError as error:
            cause = " ".join(str(error.orig).split())
            raise LabelError(f"{self._path}: the label store cannot be used ({cause}); restore or move it") from None


def current_answers(path: Path) -> list[AnswerEvent]:
    """Return what counts now in the store at ``path``; nothing, and no file made, where there is no store yet."""
    if not path.exists():
        return []
    with LabelStore.open(path) as store:
        return store.current()


def _prepare(connection: Any, _record: object) -> None:
    # None leaves transactions to us: the driver would begin them too late, without the write lock.
    connection.isolation_level = None
    for pragma in (f"busy_timeout = {_BUSY_TIMEOUT_MS}", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _question(event: AnswerEvent) -> tuple[Any, ...]:
    return tuple(getattr(event, name) for name in _QUESTION)


def _row(event: AnswerEvent, revision: int) -> dict[str, Any]:
    fields = {name: getattr(event, name) for name in _FIELDS}
    key = content_id(list(_question(event)), revision, length=32)
    return {**fields, "revision": revision, "idempotency_key": key, "created_s": time.time()}


def _current_query(pair_id: str | None = None) -> sql.Select[Any]:
    newest = sql.select(sql.func.max(_events.c.event_id)).group_by(*(_events.c[name] for name in _QUESTION))
    if pair_id is not None:
        newest = newest.where(_events.c.pair_id == pair_id)
    return sql.select(_events).where(_events.c.event_id.in_(newest)).order_by(_events.c.event_id)


def _read(connection: sql.Connection, query: sql.Select[Any]) -> Iterator[StoredEvent]:
    for row in connection.execute(query).mappings():
        event = AnswerEvent(**{name: row[name] for name in _FIELDS})
        yield StoredEvent(row["event_id"], row["revision"], row["created_s"], event)
