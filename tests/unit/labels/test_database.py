"""Where answers lie: an older store is brought up, network file systems are refused, PostgreSQL does the same."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest
from tests.postgres import needs_postgres
from tests.unit.labels.conftest import Fill, event

from densedpo.errors import LabelError
from densedpo.labels.database import Database, file_system, is_network
from densedpo.labels.store import LabelStore, current_answers

# The store of version 1, as it was written before people's answers had a task, tags and a note.
VERSION_1 = """
CREATE TABLE about (schema_version INTEGER NOT NULL PRIMARY KEY);
CREATE TABLE events (
    event_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, idempotency_key VARCHAR(32) NOT NULL UNIQUE,
    revision INTEGER NOT NULL, created_s DOUBLE NOT NULL, pair_id TEXT NOT NULL, segment INTEGER NOT NULL,
    answer VARCHAR(16), outcome VARCHAR(16) NOT NULL, source VARCHAR(16) NOT NULL, author TEXT NOT NULL,
    segment_s DOUBLE NOT NULL, start_s DOUBLE NOT NULL, end_s DOUBLE NOT NULL, confidence DOUBLE,
    reason TEXT NOT NULL, raw TEXT NOT NULL, settings_digest VARCHAR(64) NOT NULL, trusted BOOLEAN NOT NULL,
    CONSTRAINT one_revision UNIQUE (pair_id, segment_s, segment, source, author, revision)
);
INSERT INTO about VALUES (1);
INSERT INTO events VALUES (1, 'k1', 0, 5.0, 'p1', 0, 'a', 'ok', 'person', 'ann', 1.0, 0.0, 1.0, NULL, '', '', '', 1);
INSERT INTO events VALUES (2, 'k2', 1, 6.0, 'p1', 0, 'b', 'ok', 'person', 'ann', 1.0, 0.0, 1.0, 0.5, 'r', '', '', 1);
"""


def test_a_store_of_version_1_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    connection.close()
    newest = event(answer="b", confidence=0.5, reason="r")
    for _ in range(2):
        with LabelStore.open(path) as store:
            assert [(item.revision, item.event) for item in store.events()][:2] == [(0, event(answer="a")), (1, newest)]
            assert store.current() == [newest]
            assert store.append([newest]) == 0
    with LabelStore.open(path) as store:
        assert store.append([event(answer="a", task="repeat"), event(answer="tie")]) == 2
        assert [item.event_id for item in store.events()] == [1, 2, 3, 4]


MOUNTS = """/dev/sda1 / ext4 rw 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/ann/local\\040disk xfs rw 0 0
share /mnt/share cifs rw 0 0
me@host: /mnt/ssh fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind", "network"),
    [
        ("/var/data", "ext4", False),
        ("/home/ann/project", "nfs4", True),
        ("/homestead", "ext4", False),
        ("/home/ann/local disk/project", "xfs", False),
        ("/mnt/share", "cifs", True),
        ("/mnt/ssh/x", "fuse.sshfs", True),
    ],
)
def test_the_file_system_of_a_folder(tmp_path: Path, folder: str, kind: str, network: bool) -> None:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    assert file_system(Path(folder), table) == kind
    assert is_network(kind) == network
    assert file_system(Path(folder), tmp_path / "none") == ""


def test_a_store_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("densedpo.labels.database.file_system", lambda _folder: "nfs4")
    with pytest.raises(LabelError, match=r"network file system \(nfs4\).*label\.store_url"):
        LabelStore.open(tmp_path / "labels.db")
    assert not (tmp_path / "labels.db").exists()


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "nonsense secret", "postgresql://u:secret@127.0.0.1:1/none"])
def test_other_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(LabelError) as caught:
        Database.open(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_driver_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LabelError, match=r"psycopg; run `pip install 'densedpo\[postgres\]'`"):
        Database.open("postgresql://u:secret@127.0.0.1/d")


@needs_postgres
def test_postgres_does_the_same(postgres_url: str, fill: Fill) -> None:
    given = [event(segment=0, confidence=0.25, reason="é\n"), event(segment=1, answer=None, outcome="refused")]
    later = event(segment=0, answer="b", tags="limbs,blur", note="n", dwell_s=1.5, shown_first="b", offered=True)
    with LabelStore.open(postgres_url) as store:
        assert store.append(given) == 2
        assert store.record("ann", "key-0001", [later], 5) == store.record("ann", "key-0001", [later], 5) == 1
        assert store.record("ann", "key-0002", [given[0]], 4) == 1
        assert len(store.events()) == 5
    assert current_answers(postgres_url) == [given[1], later]
    assert fill(given).label_store_url is None
