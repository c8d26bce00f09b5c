"""Every reply of a service, kept as soon as it is there: nothing that was paid for is asked or paid for twice.

A SQLite file beside the label store, in PROJECT/cache, with one writer thread. What many workers hand in at about the
same time is written in one transaction and synced once; a reply is used only after that. The money set aside and spent
for it (labels/judges/ledger.py) is in the same transaction.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from densedpo.errors import LabelError
from densedpo.labels.database import file_system, is_network
from densedpo.labels.judges.answerer import Reply
from densedpo.observe import warn
from densedpo.store.lock import take_lock

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, outcome TEXT NOT NULL, text TEXT NOT NULL, why TEXT NOT NULL,
    tokens TEXT NOT NULL, cost REAL NOT NULL, created_s REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (
    number TEXT PRIMARY KEY, reserved REAL NOT NULL, cost REAL, created_s REAL NOT NULL
);
PRAGMA user_version = 1;
"""
_KEEP = "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_RESERVE = "INSERT INTO spending VALUES (?, ?, NULL, ?)"
_BOOK = "UPDATE spending SET cost = ? WHERE number = ?"
_SPEND = "INSERT INTO spending VALUES (?, 0, ?, ?)"
# a request that was under way when its process was killed may have been charged for
_SPENT = "SELECT COALESCE(SUM(COALESCE(cost, reserved)), 0) FROM spending"
_DAMAGED = {"SQLITE_CORRUPT", "SQLITE_NOTADB"}

Write = tuple[str, tuple[Any, ...]]


class Replies:
    """An open store of replies; threads may share it. Use it in a ``with`` statement or call ``close``."""

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        """Open the file at ``path``, making it if need be; a damaged one is named, set aside and begun anew.

        ``alone`` keeps others out while it is open: two that know nothing of each other could pass a budget.

        Raises:
            LabelError: if it cannot be opened or written, or others are at work where one must be alone.
        """
        self._path = path
        self.transactions = 0
        self._lock = _locked(path.with_name(f"{path.name}-lock"), alone)
        with self._naming_errors():
            self._connection = self._open()
        self._numbers = (f"{time.time_ns()}-{os.getpid()}-{number}" for number in itertools.count())
        self._reading = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[list[Write], Future[None]] | None] = queue.SimpleQueue()
        self._bookings: queue.SimpleQueue[Write] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="replies", daemon=True)
        self._writer.start()

    def __enter__(self) -> Replies:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname not in _DAMAGED:
                raise
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
        self._path.rename(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        warn(f"{self._path}: damaged, set aside as {aside.name}; known replies and what they cost are forgotten")
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30.0, isolation_level=None, check_same_thread=False)
        try:
            # shared memory, which WAL needs, does not work between machines
            journal = "TRUNCATE" if is_network(file_system(self._path.parent)) else "WAL"
            for pragma in (f"journal_mode = {journal}", "synchronous = FULL"):
                connection.execute(f"PRAGMA {pragma}")
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                damaged = sqlite3.DatabaseError(found)
                damaged.sqlite_errorname = "SQLITE_CORRUPT"
                raise damaged
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def get(self, *keys: str) -> Reply | None:
        """Return the reply known from before under one of ``keys``, or None.

        Raises:
            LabelError: if the file cannot be read.
        """
        query = f"SELECT outcome, text, why, tokens FROM replies WHERE key IN ({', '.join('?' * len(keys))})"  # noqa: S608
        with self._naming_errors(), self._reading:
            row = self._connection.execute(query, keys).fetchone()
        if row is None:
            return None
        outcome, text, why, tokens = row
        return Reply(outcome, text, why, cached=True, tokens=json.loads(tokens))

    def spent(self) -> float:
        """Return the US dollars that were spent, or set aside and never booked, in all runs so far.

        Raises:
            LabelError: if the file cannot be read.
        """
        with self._naming_errors(), self._reading:
            (dollars,) = self._connection.execute(_SPENT).fetchone()
        return float(dollars)

    def keep(self, key: str, model: str, reply: Reply) -> Future[None]:
        """Store a reply; it is durable, with all that was booked before, when the future is done.

        The future's exception is LabelError if the file cannot be written.
        """
        assert reply.outcome != "failed", "a call that failed is no reply"
        row = (key, model, reply.outcome, reply.text, reply.why, json.dumps(dict(reply.tokens)), reply.cost)
        return self._hand_in([(_KEEP, (*row, time.time()))])

    def reserve(self, dollars: float) -> Future[str]:
        """Set money aside; the future gives the number to book it under, once it is durable."""
        number, numbered = next(self._numbers), Future[str]()
        numbered.set_running_or_notify_cancel()
        written = self._hand_in([(_RESERVE, (number, dollars, time.time()))])

        def done(found: Future[None]) -> None:
            error = found.exception()
            if error is None:
                numbered.set_result(number)
            else:
                numbered.set_exception(error)

        written.add_done_callback(done)
        return numbered

    def book(self, number: str | None, dollars: float) -> None:
        """Book what was spent, on money set aside or (None) not; durable with what is written next, or on closing."""
        if number is not None:
            self._bookings.put((_BOOK, (dollars, number)))
        elif dollars:
            self._bookings.put((_SPEND, (next(self._numbers), dollars, time.time())))

    def close(self) -> None:
        """Write what is left and close the file."""
        self._waiting.put(([], Future()))
        self._waiting.put(None)
        self._writer.join()
        self._connection.close()
        self._lock.close()

    def _hand_in(self, writes: list[Write]) -> Future[None]:
        written: Future[None] = Future()
        # nobody can cancel it then: who waits may go, and the writer says all the same that it is done
        written.set_running_or_notify_cancel()
        self._waiting.put((writes, written))
        return written

    def _write(self) -> None:
        """Write what is waiting, all of it in one transaction, again and again."""
        connection = self._connect_again()
        ending = False
        while not ending:
            taken = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    taken.append(self._waiting.get_nowait())
            ending = None in taken
            handed_in = [item for item in taken if item is not None]
            bookings = self._booked()
            writes = [*bookings, *(write for listed, _ in handed_in for write in listed)]
            try:
                with self._naming_errors():
                    _transact(connection, writes)
            except LabelError as error:
                for booking in bookings:
                    self._bookings.put(booking)
                for _, written in handed_in:
                    written.set_exception(error)
            else:
                self.transactions += 1
                for _, written in handed_in:
                    written.set_result(None)
        connection.close()

    def _connect_again(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30.0, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _booked(self) -> list[Write]:
        bookings = []
        with contextlib.suppress(queue.Empty):
            while True:
                bookings.append(self._bookings.get_nowait())
        return bookings

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            cause = " ".join(str(error).split())
            raise LabelError(
                f"{self._path}: the store of judges' replies cannot be used ({cause}); free the disk or move the file "
                "away, then repeat the command"
            ) from None


def _locked(path: Path, alone: bool) -> TextIO:
    """Return the open file whose lock is held until it is closed, also by a kill."""
    try:
        return take_lock(path, alone=alone)
    except BlockingIOError:
        raise LabelError(
            f"{path}: another judge is at work in this project, and with judge.budget only one may be; wait for it"
        ) from None


def _transact(connection: sqlite3.Connection, writes: list[Write]) -> None:
    if not writes:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement, values in writes:
            connection.execute(statement, values)
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
