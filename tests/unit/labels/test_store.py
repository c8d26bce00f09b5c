from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.unit.labels.conftest import event

from densedpo.errors import LabelError
from densedpo.labels.store import LabelStore, current_answers

WRITER = """
import sys
from pathlib import Path
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.store import LabelStore

with LabelStore.open(Path(sys.argv[1])) as store:
    for number in range(100_000):
        store.append([AnswerEvent(f"p{number}", part, "a", "ok", "person", "ann", 1.0, 0.0, 1.0) for part in (0, 1)])
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
"""


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    given = [
        event(segment=0, confidence=0.25, reason="sharper\nedges", raw='{"x": "é"}', settings_digest="d"),
        event(segment=1, answer=None, outcome="refused", source="judge", author="m"),
        event(segment=-1, answer="both_bad", trusted=False),
    ]
    path = tmp_path / "labels" / "labels.db"
    with LabelStore.open(path) as store:
        assert store.append(given) == 3
    with LabelStore.open(path) as store:
        assert store.current() == given
        assert [stored.event_id for stored in store.events()] == [1, 2, 3]
    assert current_answers(path) == given


def test_no_store_is_no_answers_and_makes_no_file(tmp_path: Path) -> None:
    assert current_answers(tmp_path / "labels.db") == []
    assert list(tmp_path.iterdir()) == []


def test_newer_revision_counts_and_repeating_adds_nothing(tmp_path: Path) -> None:
    with LabelStore.open(tmp_path / "labels.db") as store:
        assert store.append([event(answer="a"), event(answer="b")]) == 2
        assert store.append([event(answer="b")]) == 0
        assert store.append([event(answer="a")]) == 1
        assert store.current() == [event(answer="a")]
        assert [(stored.revision, stored.event.answer) for stored in store.events()] == [(0, "a"), (1, "b"), (2, "a")]


def test_authors_sources_and_segment_lengths_are_different_questions(tmp_path: Path) -> None:
    given = [event(), event(author="bob"), event(source="judge"), event(segment_s=0.5)]
    with LabelStore.open(tmp_path / "labels.db") as store:
        store.append(given)
        assert store.current() == given


def test_a_failing_transaction_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path) as store:
        broken = event(pair_id="p2")
        object.__setattr__(broken, "author", None)
        with pytest.raises(LabelError, match="cannot be used"):
            store.append([event(), broken])
        assert store.events() == []


def test_durability_settings_are_on(tmp_path: Path) -> None:
    with LabelStore.open(tmp_path / "labels.db") as store, store._reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar() or 0) >= 1000


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    path.write_text("not a database, but long enough to look like one " * 40)
    with pytest.raises(LabelError, match=r"labels\.db"):
        LabelStore.open(path)


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    LabelStore.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE about SET schema_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(LabelError, match="version 99"):
        LabelStore.open(path)


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    LabelStore.open(path).close()

    def write(author: str) -> None:
        with LabelStore.open(path) as store:
            for segment in range(20):
                store.append([event(segment=segment, author=author)])

    threads = [threading.Thread(target=write, args=(name,)) for name in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(current_answers(path)) == 40


@pytest.mark.faults
def test_kill_while_appending_loses_no_acknowledged_event(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    for after in (1, 7, 20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(after)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout.read().splitlines()]
        writer.stdout.close()
        writer.wait()
        found: dict[str, int] = {}
        for answer in current_answers(path):
            found[answer.pair_id] = found.get(answer.pair_id, 0) + 1
        assert {f"p{number}" for number in acknowledged} <= set(found)
        assert set(found.values()) == {2}, "a transaction is whole or absent"
