"""The database under the label store: SQLite in one file, or PostgreSQL by URL, behind the same few calls.

Every change is one transaction that takes the write lock before it reads, so what it read cannot change under it, and
it is durable when the call returns. SQLite runs in WAL mode with full synchronisation; network file systems, whose
locks and syncing cannot be relied upon, are refused.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from densedpo.errors import LabelError
from densedpo.labels.schema import SCHEMA_VERSION, about, events, schema
from densedpo.store.files import fsync_folder

Location = Path | str
_BUSY_TIMEOUT_MS = 30_000
_WRITE_LOCK = 0x64_65_6E_73_65
_THREADS = 64
_NETWORK = {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs"}
_NETWORK_PREFIXES = ("fuse.sshfs", "fuse.gluster", "fuse.s3fs", "fuse.rclone", "fuse.ceph", "fuse.gcsfuse")


class StoreUnavailableError(LabelError):
    """The database cannot be read or written at the moment; nothing is wrong with the answers."""


class Database:
    """Connections to one label store; threads may share it."""

    def __init__(self, engine: sql.Engine, name: str, line: Path | None = None) -> None:
        """Wrap an engine whose tables exist; use ``open`` instead."""
        self._engine = engine
        self._name = name
        # Writers wait here in line, threads and processes alike: SQLite's own waiting lets the unlucky starve.
        self._threads = threading.Lock()
        self._processes = line

    @classmethod
    def open(cls, location: Location) -> Database:
        """Open the store at a path, or at a URL ``postgresql://user:password@host/name``, making it if need be.

        Raises:
            LabelError: if it is not a label store, was written by a newer version, cannot be reached, or would be an
                SQLite file on a network file system.
        """
        if isinstance(location, Path):
            return cls._open_file(location)
        engine = sql.create_engine(_postgres_url(location), pool_size=_THREADS, pool_pre_ping=True)
        database = cls(engine, engine.url.render_as_string(hide_password=True))
        database._prepare()
        return database

    @classmethod
    def _open_file(cls, path: Path) -> Database:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = file_system(path.parent)
        if is_network(kind):
            raise LabelError(
                f"{path}: lies on a network file system ({kind}), where SQLite can lose or mix answers; move the "
                "project to a local disk, or set label.store_url to a PostgreSQL database"
            )
        fresh = not path.exists()
        engine = sql.create_engine(sql.URL.create("sqlite", database=str(path)), pool_size=_THREADS)
        sql.event.listen(engine, "connect", _prepare_sqlite)
        database = cls(engine, str(path), path.with_name(f"{path.name}-line"))
        database._prepare()
        if fresh:
            fsync_folder(path.parent)
        return database

    def _prepare(self) -> None:
        try:
            with self.writing() as connection:
                if sql.inspect(connection).has_table(about.name):
                    _migrate(connection, self._name)
                schema.create_all(connection)
                if connection.scalar(sql.select(about.c.schema_version)) is None:
                    connection.execute(about.insert().values(schema_version=SCHEMA_VERSION))
        except LabelError:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections; what was written is already durable."""
        self._engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[sql.Connection]:
        """Give a connection inside a transaction that alone may write; durable when the block ends.

        Raises:
            LabelError: if the store stays locked by another process or cannot be written.
        """
        with self._in_line(), self._naming_errors(), self._engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_WRITE_LOCK)))
            yield connection

    @contextmanager
    def _in_line(self) -> Iterator[None]:
        with self._threads:
            if self._processes is None:
                yield
                return
            with self._processes.open("a") as line:
                # given back when the file is closed, also by a kill
                fcntl.flock(line, fcntl.LOCK_EX)
                yield

    @contextmanager
    def reading(self) -> Iterator[sql.Connection]:
        """Give a connection to read with.

        Raises:
            LabelError: if the store cannot be read.
        """
        with self._naming_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except sql.exc.DBAPIError as error:
            cause = " ".join(str(error.orig).split())
            raise StoreUnavailableError(
                f"{self._name}: the label store cannot be used ({cause}); restore or move it"
            ) from None


def _postgres_url(text: str) -> sql.URL:
    try:
        url = sql.make_url(text)
    except sql.exc.ArgumentError:
        # the text may hold a password
        raise LabelError("label.store_url: not a URL; write postgresql://user:password@host/name") from None
    if url.get_backend_name() != "postgresql":
        raise LabelError(
            f"label.store_url: {url.get_backend_name()} is not supported; write postgresql://user:password@host/name, "
            "or leave it out for SQLite"
        )
    if find_spec("psycopg") is None:
        raise LabelError("label.store_url: needs the package psycopg; run `pip install 'densedpo[postgres]'`")
    return url.set(drivername="postgresql+psycopg")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # None leaves transactions to us: the driver would begin them too late, without the write lock.
    connection.isolation_level = None
    for pragma in (f"busy_timeout = {_BUSY_TIMEOUT_MS}", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _migrate(connection: sql.Connection, name: str) -> None:
    """Bring a store of version 1 to version 2: its events keep everything and get the new columns' defaults."""
    version = connection.scalar(sql.select(about.c.schema_version))
    if version is None or version == SCHEMA_VERSION:
        return
    if version != 1:
        raise LabelError(f"{name}: label store of version {version}, not {SCHEMA_VERSION}; use the densedpo of then")
    connection.exec_driver_sql("ALTER TABLE events RENAME TO events_1")
    events.create(connection)
    old = ", ".join(column["name"] for column in sql.inspect(connection).get_columns("events_1"))
    connection.exec_driver_sql(f"INSERT INTO events ({old}) SELECT {old} FROM events_1")  # noqa: S608 (our own names)
    connection.exec_driver_sql("DROP TABLE events_1")
    connection.execute(about.update().values(schema_version=SCHEMA_VERSION))


def is_network(kind: str) -> bool:
    """Say whether a kind of file system, as the system names it, is on another machine."""
    return kind in _NETWORK or kind.startswith(_NETWORK_PREFIXES)


def file_system(folder: Path, table: Path = Path("/proc/self/mounts")) -> str:
    """Return the kind of file system that ``folder`` lies on; empty where the system does not say."""
    if not table.exists():
        return ""
    resolved, best, kind = folder.resolve(), Path(), ""
    for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
        _, mount, found, *_ = line.split(" ")
        # the system writes blanks in names as octal numbers
        point = Path(mount.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        # of nested mounts the innermost counts, of several on one folder the last
        if resolved.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, found
    return kind
