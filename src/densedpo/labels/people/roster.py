"""Who may label: invitations, roles and sign-in cookies.

A person is invited with a token, of which only the digest is kept. Signing in gives a cookie that the server signs with
a secret of its own, made at first start. Inviting somebody again makes their old link and cookies worthless.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import sqlalchemy as sql

from densedpo.errors import LabelError
from densedpo.labels.database import Database
from densedpo.labels.schema import people
from densedpo.store.files import fsync_folder

Role = Literal["annotator", "reviewer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
SESSION_S = 30 * 24 * 3600
NAME_LIMIT = 64


@dataclass(frozen=True)
class Person:
    """One who labels: name, role, whether the instructions were read and the qualification passed (None: not tried)."""

    name: str
    role: Role
    token_sha256: str | None
    instructed: bool
    qualified: bool | None


class Roster:
    """The people of one label store."""

    def __init__(self, database: Database, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        """Keep people in ``database`` and sign their cookies with ``secret``."""
        self._database = database
        self._secret = secret
        self._clock = clock

    def invite(self, name: str, role: Role) -> str:
        """Add a person, or renew their invitation; return the token, which is shown this once.

        Raises:
            LabelError: if name or role cannot be used.
        """
        if role not in ROLES:
            raise LabelError(f"role: {role!r} is unknown; choose one of {', '.join(ROLES)}")
        token = secrets.token_urlsafe(32)
        self._put(_checked(name), role, _digest(token))
        return token

    def join(self, name: str) -> Person:
        """Return the person of this name, added as an admin where there is none: for one's own machine alone.

        Raises:
            LabelError: if the name cannot be used.
        """
        known = self.find(_checked(name))
        if known is not None:
            return known
        self._put(name, "admin", None)
        joined = self.find(name)
        assert joined is not None
        return joined

    def by_token(self, token: str) -> Person | None:
        """Return whose invitation this is."""
        return self._one(people.c.token_sha256 == _digest(token))

    def find(self, name: str) -> Person | None:
        """Return the person of this name."""
        return self._one(people.c.name == name)

    def everybody(self) -> list[Person]:
        """Return all people in order of name."""
        with self._database.reading() as connection:
            rows = connection.execute(sql.select(*_COLUMNS).order_by(people.c.name)).mappings()
            return [Person(**row) for row in rows]

    def has_invitations(self) -> bool:
        """Say whether anybody was ever invited: from then on a token is asked for."""
        wanted = sql.select(people.c.name).where(people.c.token_sha256.is_not(None)).limit(1)
        with self._database.reading() as connection:
            return connection.scalar(wanted) is not None

    def mark_instructed(self, name: str) -> None:
        """Note that this person has read the instructions."""
        self._change(name, instructed=True)

    def mark_qualified(self, name: str, passed: bool) -> None:
        """Note how this person's qualification ended."""
        self._change(name, qualified=passed)

    def cookie(self, person: Person) -> str:
        """Return a signed cookie value for this person, good for ``SESSION_S`` seconds."""
        text = f"{int(self._clock()) + SESSION_S}:{person.name}"
        return f"{base64.urlsafe_b64encode(text.encode()).decode()}.{self._signature(text, person)}"

    def from_cookie(self, value: str) -> Person | None:
        """Return whose cookie this is; None where it is forged, out of date, or the invitation was renewed."""
        encoded, _, signature = value.partition(".")
        try:
            text = base64.urlsafe_b64decode(encoded.encode("ascii")).decode()
        except (binascii.Error, UnicodeError):
            return None
        until, _, name = text.partition(":")
        person = self.find(name)
        if person is None or not until.isdecimal() or int(until) < self._clock():
            return None
        return person if hmac.compare_digest(signature.encode(), self._signature(text, person).encode()) else None

    def _signature(self, text: str, person: Person) -> str:
        return hmac.new(self._secret, f"cookie:{person.token_sha256}:{text}".encode(), hashlib.sha256).hexdigest()

    def _one(self, condition: sql.ColumnElement[bool]) -> Person | None:
        with self._database.reading() as connection:
            row = connection.execute(sql.select(*_COLUMNS).where(condition)).mappings().first()
        return None if row is None else Person(**row)

    def _put(self, name: str, role: Role, token_sha256: str | None) -> None:
        values = {"role": role, "token_sha256": token_sha256}
        fresh = {"name": name, "created_s": self._clock(), "instructed": False}
        with self._database.writing() as connection:
            known = connection.execute(people.update().where(people.c.name == name).values(**values))
            if not known.rowcount:
                connection.execute(people.insert(), {**values, **fresh})

    def _change(self, name: str, **values: bool) -> None:
        with self._database.writing() as connection:
            connection.execute(people.update().where(people.c.name == name).values(**values))


_COLUMNS = (people.c.name, people.c.role, people.c.token_sha256, people.c.instructed, people.c.qualified)


def server_secret(folder: Path) -> bytes:
    """Return the server's own secret, made at first use and readable by its owner alone."""
    path = folder / "server.secret"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_bytes()
        if len(secret) != 32:
            raise LabelError(f"{path}: damaged; remove it, and everybody signs in again") from None
        return secret
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    fsync_folder(folder)
    return path.read_bytes()


def _checked(name: str) -> str:
    if not (0 < len(name) <= NAME_LIMIT and name.isprintable() and name.strip() == name):
        raise LabelError(f"name: {name[:NAME_LIMIT]!r} must be 1 to {NAME_LIMIT} printable characters")
    return name


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
