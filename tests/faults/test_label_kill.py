"""SIGKILL of the labelling server while four people post: what was acknowledged is there, once and whole.

``LABEL_KILLS=500`` runs the long form. A second test looks at the system calls: the disk has an answer before the page
hears of it, and a twin that does not wait for the disk is caught.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.labels.conftest import PAIR_COLUMNS, pair_row

from densedpo.clips.encode import write_video
from densedpo.keys import stream
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project
from densedpo.store.tables import write_table

pytestmark = [pytest.mark.slow, pytest.mark.faults]
KILLS = int(os.environ.get("LABEL_KILLS", "25"))
CLIENTS = 4
SCRIPT = Path(__file__).with_name("label_server.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    rows = [pair_row(f"p{number}", num_frames=17) for number in range(12)]
    frames = np.zeros((17, 32, 32, 3), dtype=np.uint8)
    for row in rows:
        for side in ("a", "b"):
            write_video(made.pairs / row["pair_id"] / f"{side}.mp4", frames, 8.0)
    write_table(made.pairs_table, rows, PAIR_COLUMNS)
    return made


class Page:
    """One person's page: posts with a key of its own until the server says that it has it."""

    def __init__(self, port: int, name: str) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
        self.acknowledged: list[str] = []
        self.posted: set[str] = set()
        self.errors: list[str] = []
        self.seq = 0
        self.call("/api/session", {"name": name})

    def once(self, path: str, form: dict[str, Any]) -> dict[str, Any] | None:
        """Return the reply, or None where there was no server, or it died before it had answered."""
        try:
            self._connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            self._connection.request("POST", path, json.dumps(form), self._headers)
            reply = self._connection.getresponse()
            text = reply.read().decode()
        except (OSError, http.client.HTTPException):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return None
        if reply.status != 200:
            self.errors.append(f"{reply.status} {text}")
        cookie = reply.getheader("Set-Cookie")
        if cookie:
            self._headers["Cookie"] = cookie.partition(";")[0]
        answer: dict[str, Any] = json.loads(text) if reply.status == 200 else {}
        return answer

    def call(self, path: str, form: dict[str, Any]) -> dict[str, Any]:
        while (reply := self.once(path, form)) is None:
            time.sleep(0.005)
        return reply

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def work(self, stop: threading.Event) -> None:
        tasks = [task["task_id"] for task in self.call("/api/next", {"count": 3})["tasks"]]
        while not stop.is_set():
            key = uuid.uuid4().hex
            self.seq += 1
            self.posted.add(key)
            answers = [{"segment": segment, "answer": "tie", "note": key} for segment in (0, 1)]
            form = {"task_id": tasks[self.seq % len(tasks)], "key": key, "seq": self.seq, "answers": answers}
            reply = self.call("/api/answers", form)
            if "stored" in reply:
                self.acknowledged.append(key)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def starter(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as parent:  # fmt: skip
        try:
            yield parent
        finally:
            assert parent.stdin is not None
            parent.stdin.close()
            parent.wait(timeout=30)


def start(parent: subprocess.Popen[str]) -> int:
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdin.write("\n")
    parent.stdin.flush()
    return int(parent.stdout.readline())


def test_no_acknowledged_answer_is_lost_or_doubled(project: Project) -> None:
    port, rng, stop = free_port(), stream("test", "label kill"), threading.Event()
    with starter([sys.executable, str(SCRIPT), str(project.root), str(port)]) as parent:
        child = start(parent)
        pages = [Page(port, f"person-{number}") for number in range(CLIENTS)]
        threads = [threading.Thread(target=page.work, args=(stop,), daemon=True) for page in pages]
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            before, began = sum(len(page.acknowledged) for page in pages), time.monotonic()
            while sum(len(page.acknowledged) for page in pages) <= before:
                assert time.monotonic() - began < 60, "no answer was acknowledged"
                time.sleep(0.0005)
            time.sleep(float(rng.uniform(0, 0.03)))
            os.kill(child, signal.SIGKILL)
            child = start(parent)
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
        for page in pages:
            page.close()
        os.kill(child, signal.SIGKILL)
    assert not any(thread.is_alive() for thread in threads)
    with LabelStore.open(project.labels_database) as store:
        stored = Counter(item.event.note for item in store.events())
        with store.database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    acknowledged = {key for page in pages for key in page.acknowledged}
    assert len(acknowledged) >= KILLS
    assert [key for key in acknowledged if stored[key] != 2] == []  # lost, doubled or half-written
    assert set(stored.values()) == {2}
    assert set(stored) <= {key for page in pages for key in page.posted}
    assert [error for page in pages for error in page.errors] == []


def acknowledged_after_sync(trace: list[str]) -> list[bool]:
    """Say of each acknowledgement whether all that was written to the log before it had been synced."""
    verdicts: list[bool] = []
    dirty = False
    for line in trace:
        if "pwrite64(" in line and "labels.db-wal" in line:
            dirty = True
        elif re.search(r"(fdatasync|fsync)\(.*labels\.db-wal.*\)\s+= 0|<\.\.\. (fdatasync|fsync) resumed>.*= 0", line):
            dirty = False
        elif '\\"stored\\":' in line:
            verdicts.append(not dirty)
    return verdicts


@pytest.mark.parametrize("twin", [[], ["unsynced"]], ids=["", "unsynced twin"])
def test_the_disk_has_an_answer_before_the_page_hears_of_it(project: Project, tmp_path: Path, twin: list[str]) -> None:
    strace = shutil.which("strace")
    if (
        strace is None
        or subprocess.run([strace, "-o", "/dev/null", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("needs strace and leave to trace: apt-get install strace")
    port, trace = free_port(), tmp_path / "trace"
    calls = "trace=pwrite64,fdatasync,fsync,sendto,write,writev,sendmsg"
    command = [strace, "-f", "-y", "-s", "600", "-e", calls, "-o", str(trace), sys.executable, str(SCRIPT)]
    with starter([*command, str(project.root), str(port), *twin]) as parent:
        child = start(parent)
        page = Page(port, "ann")
        (task,) = page.call("/api/next", {})["tasks"]
        for number in range(10):
            answers = [{"segment": 0, "answer": "tie" if number % 2 else "first"}]
            form = {"task_id": task["task_id"], "key": f"key-{number:05}", "seq": number, "answers": answers}
            assert page.call("/api/answers", form)["stored"] == 1
        page.close()
        os.kill(child, signal.SIGTERM)
    verdicts = acknowledged_after_sync(trace.read_text(encoding="utf-8", errors="replace").splitlines())
    assert len(verdicts) == 10
    assert all(verdicts) if not twin else not any(verdicts)
