"""Eight annotators race for the same pairs, each in a process of its own: nobody gets what another holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sql
from tests.postgres import needs_postgres

from densedpo.labels.database import Database
from densedpo.labels.queue import Queue
from densedpo.labels.schema import claims, queue

pytestmark = [pytest.mark.slow, pytest.mark.faults]
RACERS = 8
PAIRS = int(os.environ.get("LABEL_RACE_PAIRS", "300"))  # the long form has 2,000
SCRIPT = Path(__file__).with_name("label_racer.py")


def race(location: Path | str, pairs: int, rule: str, leaves: float = 0.0, lease_s: float = 600.0) -> list[list[str]]:
    """Return the lines (state, pair) that the racers printed; fails if one of them met an error."""
    database = Database.open(location)
    Queue(database, overlap=1, lease_s=lease_s).fill([f"p{number}" for number in range(pairs)])
    database.close()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    racers = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(location), f"person-{number}", rule, str(leaves), str(lease_s)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for number in range(RACERS)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    lines: list[list[str]] = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        out, errors = racer.communicate(timeout=200 + PAIRS)
        assert racer.returncode == 0, errors
        assert errors == ""  # no "locked", nothing else
        lines += [line.split() for line in out.splitlines()]
    return lines


def doubled(lines: list[list[str]]) -> int:
    taken = Counter(pair for state, pair in lines if state == "submitted")
    return sum(count - 1 for count in taken.values())


def test_nobody_gets_what_another_holds(tmp_path: Path) -> None:
    lines = race(tmp_path / "labels.db", PAIRS, "queue")
    assert doubled(lines) == 0
    assert len({pair for _, pair in lines}) == len(lines) == PAIRS


def test_the_read_then_update_twin_is_caught(tmp_path: Path) -> None:
    assert doubled(race(tmp_path / "labels.db", 300, "read-then-update")) > 0


def test_pairs_that_were_dropped_come_back(tmp_path: Path) -> None:
    lines = race(tmp_path / "labels.db", 120, "queue", leaves=0.2, lease_s=1.0)
    assert sum(state == "left" for state, _ in lines) >= 5
    assert doubled(lines) == 0
    database = Database.open(tmp_path / "labels.db")
    with database.reading() as connection:
        done = connection.execute(sql.select(queue.c.done, sql.func.count()).group_by(queue.c.done)).all()
        states = set(connection.scalars(sql.select(claims.c.state)))
    database.close()
    assert [tuple(row) for row in done] == [(1, 120)]
    # who waited for the disk longer than a lease of one second came too late: kept, and counted once all the same
    assert states <= {"submitted", "expired", "surplus"}


@needs_postgres
def test_nobody_gets_what_another_holds_in_postgres(postgres_url: str) -> None:
    lines = race(postgres_url, 200, "queue")
    assert doubled(lines) == 0
    assert len({pair for _, pair in lines}) == len(lines) == 200
