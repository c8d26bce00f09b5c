"""A running page without a network: the guarded application on a small project, and signed-in clients."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tests.unit.labels.conftest import PAIR_COLUMNS, pair_row

from densedpo.clips.encode import write_video
from densedpo.config import parse_settings
from densedpo.keys import stream
from densedpo.labels.people.app import guarded, make_app
from densedpo.labels.people.gate import Site
from densedpo.labels.people.office import Office, open_office
from densedpo.store.project import Project
from densedpo.store.tables import write_table

BASE = "http://127.0.0.1"
HEADERS = {"Origin": BASE}
OpenOffice = Callable[..., Office]


@pytest.fixture(scope="session")
def filmed_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of six pairs of 33 frames at 8 fps: four segments each; the sides of p5 hardly differ."""
    root = tmp_path_factory.mktemp("filmed")
    project, rng = Project(root), stream("test", "films")
    rows = [pair_row(f"p{number}") for number in range(6)]
    for row in rows:
        base = rng.integers(0, 256, (8, 8, 3))
        for number, side in enumerate(("a", "b")):
            shift = 0 if row["pair_id"] == "p5" else 40 * number
            picture = np.kron(base, np.ones((4, 4, 1))).astype(np.int64)
            frames = np.stack([(picture + shift + step) % 256 for step in range(33)]).astype(np.uint8)
            write_video(project.pairs / row["pair_id"] / f"{side}.mp4", frames, 8.0)
    write_table(project.pairs_table, rows, PAIR_COLUMNS)
    office = open_office(project, parse_settings({}))
    office.close()
    project.labels_database.unlink()
    for leftover in project.labels.glob("*"):
        leftover.unlink()
    return root


@pytest.fixture
def open_page(filmed_template: Path, tmp_path: Path) -> Iterator[OpenOffice]:
    """Open the office of a fresh copy of the project (the same one every time within a test)."""
    import shutil

    root = Path(shutil.copytree(filmed_template, tmp_path / "project"))
    opened: list[Office] = []

    def opener(store_url: str | None = None, **serve: Any) -> Office:
        chosen = {"gold_every": 0, "repeat_every": 0, **serve}
        office = open_office(Project(root, store_url), parse_settings({"serve": chosen}))
        opened.append(office)
        return office

    yield opener
    for office in opened:
        office.close()


def client_of(office: Office, **options: Any) -> TestClient:
    """Return a client that sends what a browser on our own page would."""
    app = guarded(make_app(office), Site(office.settings.serve.host, office.settings.serve.public_url))
    return TestClient(app, base_url=BASE, headers=HEADERS, **options)


class Worker:
    """One person at the page."""

    def __init__(self, office: Office, name: str = "ann", token: str | None = None) -> None:
        self.client = client_of(office)
        self.name = name
        self.seq = 0
        form = {"token": token} if token else {"name": name}
        assert self.client.post("/api/session", json=form).status_code == 200

    def next(self, **form: Any) -> list[dict[str, Any]]:
        reply = self.client.post("/api/next", json=form)
        assert reply.status_code == 200, reply.text
        tasks: list[dict[str, Any]] = reply.json()["tasks"]
        return tasks

    def post(self, task: dict[str, Any], answers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        self.seq += 1
        form = {"task_id": task["task_id"], "key": uuid.uuid4().hex, "seq": self.seq, "answers": answers, **more}
        reply = self.client.post("/api/answers", json=form)
        assert reply.status_code == 200, reply.text
        result: dict[str, Any] = reply.json()
        return result

    def submit(self, task: dict[str, Any]) -> dict[str, Any]:
        reply = self.client.post("/api/submit", json={"task_id": task["task_id"], "key": uuid.uuid4().hex})
        assert reply.status_code == 200, reply.text
        result: dict[str, Any] = reply.json()
        return result

    def do(self, task: dict[str, Any], answer: str = "first") -> dict[str, Any]:
        self.post(task, [{"segment": segment["index"], "answer": answer} for segment in task["segments"]])
        return self.submit(task)

    def me(self) -> dict[str, Any]:
        result: dict[str, Any] = self.client.get("/api/me").json()
        return result
