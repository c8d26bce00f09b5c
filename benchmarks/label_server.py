"""The labelling server under load: 100,000 pairs in the store, 20 people at once, against a naive baseline.

Times what a page waits for: the next pair, an answer acknowledged (durable), a submission, a part of a video; and the
server's memory. Server and people run on this machine, each in a process of their own; half of the pairs are labelled
before the clock starts. ``naive`` reads all pairs and claims for every request and keeps SQLite's default journal.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import sqlalchemy as sql
import uvicorn

from densedpo.config import parse_settings
from densedpo.keys import stream
from densedpo.labels import database
from densedpo.labels.answers import AnswerEvent
from densedpo.labels.people.desk import Shape
from densedpo.labels.people.gate import Site
from densedpo.labels.people.office import open_office
from densedpo.labels.people.proxies import PairProxies, Proxy
from densedpo.labels.people.serve import listen, server_config
from densedpo.labels.queue import Claim, Queue
from densedpo.labels.schema import claims, queue
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project
from densedpo.store.tables import write_table

SEGMENTS = 5
FILM_BYTES = 20_000_000
GATE_MS = 50.0
_COLUMNS = pa.schema(
    {
        "pair_id": pa.string(), "caption": pa.string(), "mode": pa.string(), "fps": pa.float64(),
        "num_frames": pa.int64(), "height": pa.int64(), "width": pa.int64(),
    }
)  # fmt: skip


class NaiveQueue(Queue):
    """The baseline: all pairs and all claims are read to find the next one."""

    def take_work(self, annotator: str) -> Claim | None:
        """Claim the first pair in order that is free and was not this person's."""
        with self._database.writing() as connection:
            held = connection.execute(sql.select(claims.c.pair_id, claims.c.annotator)).all()
            mine = {row.pair_id for row in held if row.annotator == annotator}
            for row in connection.execute(sql.select(queue).order_by(queue.c.rank)).all():
                if row.free > 0 and row.pair_id not in mine:
                    slot = self._free_slot(connection, row.pair_id)
                    return self._claim(connection, annotator, row.pair_id, "work", slot)
        return None


def _default_journal(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in ("busy_timeout = 30000", "journal_mode = DELETE", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def fill(project: Project, pairs: int, naive: bool) -> None:
    """Write the pairs table and a store in which half of the pairs are labelled by people of before."""
    shape = {"mode": "guided", "fps": 24.0, "num_frames": 121, "height": 480, "width": 832}
    rows = [{"pair_id": f"pair-{n:08}", "caption": "someone walks", **shape} for n in range(pairs)]
    write_table(project.pairs_table, rows, _COLUMNS)
    if naive:
        database._prepare_sqlite = _default_journal
    with LabelStore.open(project.labels_database) as store:
        half = rows[: pairs // 2]
        for start in range(0, len(half), 1000):
            part = half[start : start + 1000]
            store.append(
                AnswerEvent(str(row["pair_id"]), n, "a", "ok", "person", f"early-{start % 7}", 1.0, float(n), n + 1.0)
                for row in part
                for n in range(SEGMENTS)
            )
            done = [
                {
                    "task_id": uuid.uuid4().hex, "pair_id": row["pair_id"], "annotator": f"early-{start % 7}",
                    "task": "work", "slot": 0, "state": "submitted", "lease_until_s": 0.0, "created_s": 0.0,
                    "submitted_s": 1.0 + n,
                }
                for n, row in enumerate(part)
            ]  # fmt: skip
            with store.database.writing() as connection:
                connection.execute(claims.insert(), done)


@contextmanager
def served(project: Project, port: int, naive: bool) -> Iterator[psutil.Process]:
    """Run the server in a child process; the pairs share one file of ``FILM_BYTES`` as their video."""
    film = project.root / "film.bin"
    film.write_bytes(os.urandom(FILM_BYTES))
    child = os.fork()
    if child == 0:
        if naive:
            database._prepare_sqlite = _default_journal
        office = open_office(project, parse_settings({"serve": {"gold_every": 0, "repeat_every": 0}}), prepare=False)
        office.desk._shape = lambda _pair: Shape(480, 832, None)
        made: Future[PairProxies] = Future()
        made.set_result(PairProxies(24.0, 81, 480, 832, dict.fromkeys("ab", Proxy(film, "", FILM_BYTES, "")), ()))
        office.films.soon = lambda pair_id: made  # type: ignore[method-assign]
        if naive:
            office.queue.__class__ = NaiveQueue
        uvicorn.Server(server_config(office, Site("127.0.0.1"))).run(sockets=[listen("127.0.0.1", port)])
        os._exit(0)
    try:
        yield psutil.Process(child)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class Person:
    """One person's page: signs in, then labels pair after pair, thinking about ``think_s`` before each answer."""

    def __init__(self, port: int, name: str, think_s: float, note: Callable[[str, float], None]) -> None:
        """Sign in as ``name``; every wait is handed to ``note``."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
        self._note, self._think_s, self._seq = note, think_s, 0
        self._rng = stream("benchmark", "thinking", name)
        self._call("", "/api/session", {"name": name})

    def _call(self, kind: str, path: str, form: dict[str, Any] | None, **headers: str) -> Any:
        began = time.perf_counter()
        body = None if form is None else json.dumps(form)
        self._connection.request("GET" if form is None else "POST", path, body, {**self._headers, **headers})
        reply = self._connection.getresponse()
        content = reply.read()
        if kind:
            self._note(kind, 1000 * (time.perf_counter() - began))
        if reply.status not in (200, 206):
            raise RuntimeError(f"{path}: {reply.status} {content[:200]!r}")
        if cookie := reply.getheader("Set-Cookie"):
            self._headers["Cookie"] = cookie.partition(";")[0]
        return json.loads(content) if form is not None else content

    def work(self, until: float) -> None:
        """Label until the clock says so."""
        while time.monotonic() < until:
            task = self._call("next pair", "/api/next", {"count": 2})["tasks"][0]
            for shown in ("first", "second"):
                self._call("part of a video", task["media"][shown], None, Range="bytes=1000000-1065535")
            for segment in range(SEGMENTS):
                time.sleep(self._think_s * float(self._rng.uniform(0.5, 1.5)))
                self._seq += 1
                answers = [{"segment": segment, "answer": "first", "dwell_s": self._think_s}]
                form = {"task_id": task["task_id"], "key": uuid.uuid4().hex, "seq": self._seq, "answers": answers}
                self._call("answer acknowledged", "/api/answers", form)
            self._call("submission", "/api/submit", {"task_id": task["task_id"], "key": uuid.uuid4().hex})


def measure(port: int, people: int, think_s: float, seconds: float, server: psutil.Process) -> dict[str, Any]:
    """Return the waits by kind in ms, the rate, and the server's resident memory before and after, in MiB."""
    waits: dict[str, list[float]] = {}
    lock = threading.Lock()

    def note(kind: str, wait_ms: float) -> None:
        with lock:
            waits.setdefault(kind, []).append(wait_ms)

    crowd = [Person(port, f"person-{number}", think_s, note) for number in range(people)]
    crowd[0].work(time.monotonic())  # what is made at first use is made now
    waits.clear()
    before = server.memory_info().rss / 2**20
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=person.work, args=(until,)) for person in crowd]
    began = time.monotonic()
    for number, thread in enumerate(threads):
        thread.start()
        # people do not work in step: they start at all moments of a pair
        time.sleep(think_s * SEGMENTS / people if number + 1 < people else 0)
    for thread in threads:
        thread.join()
    spent = time.monotonic() - began
    table = {
        kind: {
            "n": len(found),
            **{f"p{q}_ms": round(float(np.percentile(found, q)), 2) for q in (50, 95, 99)},
            "max_ms": round(max(found), 2),
        }
        for kind, found in sorted(waits.items())
    }
    answers = len(waits.get("answer acknowledged", []))
    memory = {"before_mib": round(before, 1), "after_mib": round(server.memory_info().rss / 2**20, 1)}
    return {"waits": table, "answers_per_s": round(answers / spent, 1), "server_memory": memory}


def wait_for(port: int) -> None:
    """Wait until the server answers."""
    for _ in range(6000):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/api/me")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server did not start")


def main() -> int:
    """Run the benchmark; 1 if ``--check`` is given and a gate fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement")
    parser.add_argument("--think-s", type=float, default=1.0, help="pause before each answer; 0 floods the server")
    parser.add_argument("--port", type=int, default=8799)
    parser.add_argument("--no-baseline", action="store_true", help="leave the naive server out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help=f"exit code 1 unless p95 of all is under {GATE_MS:g} ms")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found: dict[str, Any] = {
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "pairs": chosen.pairs, "people": chosen.people, "think_s": chosen.think_s,
    }  # fmt: skip
    for name in ("server",) if chosen.no_baseline else ("server", "naive"):
        with tempfile.TemporaryDirectory() as folder:
            project = Project(Path(folder))
            fill(project, chosen.pairs, name == "naive")
            with served(project, chosen.port, name == "naive") as process:
                wait_for(chosen.port)
                found[name] = measure(chosen.port, chosen.people, chosen.think_s, chosen.seconds, process)
    text = json.dumps(found, indent=2)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")
    if chosen.json:
        print(text)
    else:
        for name in sorted(found.keys() & {"server", "naive"}, reverse=True):
            for kind, row in found[name]["waits"].items():
                print(f"{name:7} {kind:20} " + "  ".join(f"{key} {value}" for key, value in row.items()))
            print(f"{name:7} {found[name]['answers_per_s']} answers/s, {found[name]['server_memory']}")
    slow = [kind for kind, row in found["server"]["waits"].items() if row["p95_ms"] >= GATE_MS]
    return 1 if chosen.check and slow else 0


if __name__ == "__main__":
    sys.exit(main())
