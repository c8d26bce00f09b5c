"""SIGKILL of a judging run at random points: no stored answer is lost, at most one call a worker is made again.

``JUDGE_KILLS=100`` runs the long form. A twin that uses replies before they are on disk is caught.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.fake_endpoint import FakeEndpoint, steady
from tests.judged_pairs import SEGMENTS, make_project

from densedpo.keys import stream
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.faults]
KILLS = int(os.environ.get("JUDGE_KILLS", "40"))
WORKERS = 4
LATENCY_S = 0.02
SCRIPT = Path(__file__).with_name("judging.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}


@dataclass
class Found:
    """What a series of kills did: kills that hit a run at work, calls made again after each, all stored answers."""

    hits: int = 0
    again: list[int] = field(default_factory=list)
    lost: int = 0
    finished: int | None = None


def history(project: Project) -> list[AnswerEvent]:
    if not project.labels_database.exists():
        return []
    with LabelStore.open(project.labels_database) as store:
        return [item.event for item in store.events()]


def kill_again_and_again(project: Project, fake: FakeEndpoint, kills: int, twin: list[str]) -> Found:
    rng, found = stream("test", "judge kill", *twin), Found()
    command = [sys.executable, str(SCRIPT), str(project.root), fake.url, str(WORKERS), *twin]
    before: list[AnswerEvent] = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as parent:  # fmt: skip
        assert parent.stdin is not None and parent.stdout is not None
        for life in range(kills + 1):
            called = Counter(fake.record.calls)
            parent.stdin.write("\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            if life < kills:
                wait_for_calls(fake, called.total() + int(rng.integers(0, 2 * WORKERS)))
                time.sleep(float(rng.uniform(0, LATENCY_S)))
                os.kill(child, signal.SIGKILL)
            ended = int(parent.stdout.readline())
            new = fake.record.calls - called
            # killed while it was at work: it had begun to ask, and was not done
            found.hits += ended == -signal.SIGKILL and bool(new)
            found.again.append(sum(called[question] > 0 for question in new))
            after = history(project)
            found.lost += after[: len(before)] != before
            before = after
        found.finished = ended
        parent.stdin.close()
    return found


def wait_for_calls(fake: FakeEndpoint, wanted: int) -> None:
    until = time.monotonic() + 60
    while fake.record.calls.total() < wanted:
        assert time.monotonic() < until, "the run does not ask"
        time.sleep(0.0005)


def check(project: Project, found: Found, pairs: int, least_hits: int) -> None:
    assert found.hits >= least_hits, f"only {found.hits} kills hit a run at work"
    assert found.lost == 0
    assert max(found.again) <= WORKERS, f"calls made again after each kill: {found.again}"
    assert found.finished == 0
    stored = Counter((event.pair_id, event.segment) for event in history(project))
    assert set(stored) == {(f"p{pair:03}", segment) for pair in range(pairs) for segment in range(SEGMENTS)}
    assert set(stored.values()) == {1}


def pairs_for(kills: int) -> int:
    """Return enough pairs for work to be left after all kills: a life is worth 2 to 3 times the workers' calls."""
    return max(4, 3 * WORKERS * kills // (2 * SEGMENTS))


def test_kills_lose_no_answer_and_repeat_one_call_a_worker(tmp_path: Path) -> None:
    pairs = pairs_for(KILLS)
    project = make_project(tmp_path / "project", pairs)
    with FakeEndpoint(steady, latency_s=LATENCY_S) as fake:
        found = kill_again_and_again(project, fake, KILLS, [])
        check(project, found, pairs, round(0.8 * KILLS))
        # a reply is asked for again only if its run was killed before it was stored
        assert fake.calls - 2 * pairs * SEGMENTS <= WORKERS * KILLS


def test_a_twin_that_does_not_wait_for_the_disk_is_caught(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", pairs_for(8))
    with FakeEndpoint(steady, latency_s=LATENCY_S) as fake:
        found = kill_again_and_again(project, fake, 8, ["lazy"])
        with pytest.raises(AssertionError, match="made again"):
            check(project, found, pairs_for(8), 1)
