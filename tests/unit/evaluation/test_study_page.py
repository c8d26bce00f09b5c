"""The study's server: people compare, answers last, and nothing that is sent tells who made which video."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient
from tests.study_room import MODELS, NAME, clip, make_evaluation, open_room, served, study_settings
from tests.unit.evaluation.test_evaluate import run

from densedpo.clips.decode import read_video
from densedpo.clips.encode import view_frames, write_video
from densedpo.errors import ConfigError, LabelError
from densedpo.evaluation.study.office import open_study as open_study_of
from densedpo.evaluation.study.office import team_of
from densedpo.evaluation.study.plan import Plan
from densedpo.evaluation.study.results import study_results
from densedpo.evaluation.study.takes import card_of, copies_of
from densedpo.labels.people.app import guarded, make_app
from densedpo.labels.people.asks import Card
from densedpo.labels.people.gate import Site
from densedpo.labels.people.office import Office
from densedpo.labels.people.proxies import PairProxies
from densedpo.labels.store import LabelStore
from densedpo.store.project import Project

BASE = "http://127.0.0.1"
OpenStudy = Callable[..., tuple[Office, Plan]]
COMMAND = [sys.executable, "-c", "from densedpo.cli import main; main()", "study"]
FOUR = ("first", "second", "tie", "cannot_judge")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study") / "project"
    make_evaluation(root)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    import shutil

    return Project(Path(shutil.copytree(template, tmp_path / "project")))


@pytest.fixture
def open_study(project: Project) -> Iterator[OpenStudy]:
    opened: list[Office] = []

    def opener(**chosen: Any) -> tuple[Office, Plan]:
        office, plan = open_room(project, **chosen)
        opened.append(office)
        return office, plan

    yield opener
    for office in opened:
        office.close()


class Rater:
    """One person at the study page."""

    def __init__(self, office: Office, plan: Plan, name: str = "ann") -> None:
        app = guarded(make_app(office, lambda running: team_of(running, plan)), Site("127.0.0.1"))
        self.client = TestClient(app, base_url=BASE, headers={"Origin": BASE})
        self.seq = 0
        assert self.client.post("/api/session", json={"name": name}).status_code == 200

    def next(self) -> dict[str, Any] | None:
        tasks: list[dict[str, Any]] = self.client.post("/api/next", json={"count": 1}).json()["tasks"]
        return tasks[0] if tasks else None

    def answer(self, task: dict[str, Any], answers: list[dict[str, Any]], status: int = 200) -> dict[str, Any]:
        self.seq += 1
        form = {"task_id": task["task_id"], "key": uuid.uuid4().hex, "seq": self.seq, "answers": answers}
        reply = self.client.post("/api/answers", json=form)
        assert reply.status_code == status, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def do(self, task: dict[str, Any], said: tuple[str, ...] = FOUR) -> None:
        self.answer(task, [{"segment": place, "answer": one, "dwell_s": 3.0} for place, one in enumerate(said)])
        reply = self.client.post("/api/submit", json={"task_id": task["task_id"], "key": uuid.uuid4().hex})
        assert reply.status_code == 200, reply.text


def test_a_pair_is_asked_four_questions_about_the_whole(open_study: OpenStudy) -> None:
    office, plan = open_study()
    rater = Rater(office, plan)
    task = rater.next()
    assert task is not None
    assert task["caption"].startswith("a red square")
    assert [part["question"]["code"] for part in task["segments"]] == [question.code for question in plan.questions]
    assert {(part["first_frame"], part["num_frames"]) for part in task["segments"]} == {(0, 17)}
    me = rater.client.get("/api/me").json()
    assert [question["name"] for question in me["settings"]["questions"]][:2] == ["Text alignment", "Visual quality"]
    assert me["progress"]["total"] == 3
    stored = rater.answer(task, [{"segment": 0, "answer": "first"}])
    assert stored == {"stored": 1, "complete": False}
    refused = rater.client.post("/api/submit", json={"task_id": task["task_id"], "key": "k" * 8})
    assert refused.status_code == 422
    rater.do(task)
    said = office.store.current()
    first = said[0].shown_first
    assert [event.answer for event in said] == [first, "b" if first == "a" else "a", "tie", "cannot_judge"]
    assert {event.segment_s for event in said} == {17 / 8}


@pytest.mark.parametrize(
    "answer",
    [{"segment": 4, "answer": "tie"}, {"segment": -1, "answer": "tie"}, {"segment": 0, "answer": "both_bad"}],
)
def test_answers_that_were_not_asked_for_are_refused(open_study: OpenStudy, answer: dict[str, Any]) -> None:
    office, plan = open_study()
    rater = Rater(office, plan)
    task = rater.next()
    assert task is not None
    assert "error" in rater.answer(task, [answer], status=422)
    assert office.store.current() == []


def telling(project: Project, plan: Plan) -> set[str]:
    """Return every text that would say which model, seed or file a video is, or which item."""
    told = {*MODELS, NAME, "study.db", "scores.parquet", str(project.root), "videos/"}
    for item in plan.items.values():
        told |= {item.item_id, item.prompt_id}
        for take in (item.a, item.b):
            told |= {take.video, take.sha256, Path(take.video).name}
    return told


def everything_sent(rater: Rater) -> str:
    """Do the whole study and return all that the server sent: replies, headers, the videos' own bytes."""
    sent = []
    rater.client.event_hooks = {
        "response": [lambda reply: sent.append(f"{reply.url} {dict(reply.headers)} {reply.read()!r}")]
    }
    rater.client.get("/api/me")
    while (task := rater.next()) is not None:
        for path in task["media"].values():
            rater.client.get(path)
        rater.do(task)
    rater.client.get("/api/history")
    return "\n".join(sent)


def test_nothing_that_is_sent_tells_who_made_what(open_study: OpenStudy, project: Project) -> None:
    office, plan = open_study(same_model_every=1, control_every=1, repeat_every=1)
    rater = Rater(office, plan)
    sent = everything_sent(rater)
    assert sent.count("/media/") > 12
    team = rater.client.get("/api/admin/overview").text
    for secret in telling(project, plan):
        assert secret not in sent + team, secret
    for name in ("seed", "gold", "repeat", "same_model", "same_video", "control"):
        assert not re.search(rf"['\"]{name}\w*['\"]", sent), name


def test_a_leak_would_be_found(open_study: OpenStudy, project: Project) -> None:
    office, plan = open_study()
    rater = Rater(office, plan)
    original = office.desk._caption
    office.desk._caption = lambda claim: f"{original(claim)} ({plan.items[claim.pair_id].a.model})"  # type: ignore[method-assign]
    sent = everything_sent(rater)
    assert any(secret in sent for secret in telling(project, plan))


def test_the_sides_of_a_pair_differ_in_their_picture_alone(open_study: OpenStudy, project: Project) -> None:
    _, plan = open_study()
    for item in plan.of("models"):
        card = card_of(project.evaluation(NAME), item)
        made = copies_of(project, NAME, item, card)
        paths = [made.sides[side].path for side in ("a", "b")]
        assert len({path.stat().st_size for path in paths}) == 1
        heads = [_head(path) for path in paths]
        assert heads[0] == heads[1]
        for path, take in zip(paths, (item.a, item.b), strict=True):
            shown = read_video(path).frames.astype(int)
            wanted = view_frames(clip(take.model, int(item.prompt_id[-1]), take.seed))
            assert np.abs(shown - wanted).mean() < 5
        sources = [project.evaluation(NAME) / take.video for take in (item.a, item.b)]
        assert len({path.stat().st_size for path in sources}) == 2  # so the filling had something to do


def _head(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        sei = re.search(rb"x264 - core [^\x00]*", path.read_bytes())
        return {
            "container": dict(container.metadata),
            "stream": dict(stream.metadata),
            "rate": stream.average_rate,
            "frames": stream.frames,
            "format": (stream.width, stream.height, stream.pix_fmt, stream.profile, stream.time_base),
            "encoder": sei[0] if sei else None,
        }


def test_answers_survive_a_restart_and_count_once(open_study: OpenStudy) -> None:
    office, plan = open_study()
    rater = Rater(office, plan)
    task = rater.next()
    assert task is not None
    form = {"task_id": task["task_id"], "key": "same-key-1", "seq": 5, "answers": [{"segment": 2, "answer": "tie"}]}
    for _ in range(3):
        assert rater.client.post("/api/answers", json=form).status_code == 200
    late = {"key": "late-key-1", "seq": 4, "answers": [{"segment": 2, "answer": "first"}]}
    assert rater.client.post("/api/answers", json={**form, **late}).status_code == 200
    office.close()
    office, plan = open_study()
    again = Rater(office, plan).next()
    assert again is not None
    assert again["task_id"] == task["task_id"]
    assert [(one["segment"], one["answer"]) for one in again["answers"]] == [(2, "tie")]
    assert len(office.store.events()) == 3  # the post, the late one, and what it would have overruled said again


def test_overlap_gives_every_pair_to_as_many_people(open_study: OpenStudy) -> None:
    office, plan = open_study(overlap=2)
    seen: dict[str, list[str]] = {}
    for name in ("ann", "bob", "eve"):
        rater = Rater(office, plan, name)
        while (task := rater.next()) is not None:
            claim = office.queue.find(task["task_id"], name)
            assert claim is not None
            seen.setdefault(claim.pair_id, []).append(name)
            rater.do(task)
    assert {len(names) for names in seen.values()} == {2}
    assert len(seen) == 3


def test_the_team_sees_progress_and_no_preferences(open_study: OpenStudy) -> None:
    office, plan = open_study()
    rater = Rater(office, plan)
    task = rater.next()
    assert task is not None
    rater.do(task, ("first", "first", "first", "first"))
    shown = rater.client.get("/api/admin/overview").json()
    assert shown["team"]["done"] == 1
    assert shown["people"][0]["median_dwell_s"] == 12.0
    assert shown["answers"] is None
    assert set(shown) == {"team", "people", "title", "unit", "roles", "answers", "disagreements", "hidden"}
    assert set(shown["people"][0]) == {"annotator", "role", "done", "flags", "last_seen", "median_dwell_s"}


def test_videos_that_cannot_be_compared_are_left_out(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(project.evaluation(NAME) / f"videos/{MODELS[1]}/prompt0-0.mp4", clip(MODELS[1], 0, 0, frames=9), 8.0)
    write_video(project.evaluation(NAME) / f"videos/{MODELS[1]}/prompt0-1.mp4", clip(MODELS[1], 0, 1, size=40), 8.0)
    office, plan = open_room(project)
    office.close()
    assert len(plan.of("models")) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "left out of the study" in said
    with office.store.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM queue").scalar() == 2


def test_models_that_are_not_there_are_refused_with_those_that_are(project: Project) -> None:
    with pytest.raises(ConfigError, match=f"'other' is not in this evaluation; it has {', '.join(MODELS)}"):
        open_room(project, (MODELS[0], "other"))


def test_the_page_is_served_while_copies_are_made(open_study: OpenStudy) -> None:
    office, plan = open_study()
    go, made, make = threading.Event(), list[str](), office.films._copies

    def slowly(card: Card) -> PairProxies:
        go.wait()
        made.append(card.pair_id)
        return make(card)

    office.films._copies = slowly
    rater = Rater(office, plan)
    task = rater.next()  # needs no copies
    assert task is not None
    assert (task["height"], task["width"]) == (256, 256)  # of the copies
    with served(office, plan) as url, ThreadPoolExecutor(50) as crowd:  # more than the server has threads
        headers = {"Cookie": f"densedpo={rater.client.cookies['densedpo']}"}

        def fetch(path: str) -> int:
            return len(urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), timeout=60).read())

        office.films.make_ahead()
        waiting = [crowd.submit(fetch, path) for path in task["media"].values() for _ in range(25)]
        assert fetch("/api/me") > 0
        assert (made, any(one.done() for one in waiting)) == ([], False)
        go.set()
        assert len({one.result() for one in waiting}) == 1  # both files have one length
    office.close()
    assert len(made) == len(set(made))  # however many ask


def test_videos_that_prove_broken_are_left_out(
    open_study: OpenStudy, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    office, plan = open_study()
    broken = plan.of("models")[0]
    video = project.evaluation(NAME) / broken.a.video
    video.write_bytes(video.read_bytes()[:-200] + bytes(200))  # its head is whole
    office.films.make_ahead()
    assert office.films._ahead is not None
    office.films._ahead.join()
    assert "left out: " in capsys.readouterr().err
    rater, had = Rater(office, plan), list[str]()
    while (task := rater.next()) is not None:
        rater.do(task)
        claim = office.queue.find(task["task_id"], "ann")
        assert claim is not None
        had.append(claim.pair_id)
    assert sorted(had) == sorted(item.item_id for item in plan.of("models") if item is not broken)


def test_a_study_of_nothing_is_refused(project: Project) -> None:
    for model in MODELS:
        for video in (project.evaluation(NAME) / "videos" / model).glob("*.mp4"):
            video.write_bytes(b"no video")
    with pytest.raises(LabelError, match="no two videos can be compared"):
        open_room(project)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_the_command_serves_until_stopped_and_says_what_was_answered(project: Project, tmp_path: Path) -> None:
    common = ("--evaluation", NAME, "--project", str(project.root))
    serve = [*COMMAND, "serve", "--port", "0", "--models", ",".join(MODELS), *common]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = next(
            re.search(r"study page: http://127\.0\.0\.1:(\d+)/", line) for line in process.stderr if "page:" in line
        )
        assert found
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
        connection.request("GET", "/api/me")
        assert connection.getresponse().status == 401
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
        assert "Traceback" not in process.stderr.read()
    told = command("results", *common)
    assert (told.returncode, "no answers yet" in told.stderr) == (0, True)
    exported = command("export", str(tmp_path / "out.csv"), "--json", *common)
    assert json.loads(exported.stdout)["answers"] == 0


def test_the_commands_invite_and_refuse_to_be_reached_by_anybody(project: Project) -> None:
    common = ("--evaluation", NAME, "--project", str(project.root))
    refused = command("serve", "--host", "0.0.0.0", "--port", "0", *common)
    assert refused.returncode == 1
    assert not (project.cache / "study").exists()  # before any work
    assert "densedpo study invite NAME --role admin" in " ".join(refused.stderr.split())
    invited = command("invite", "ann", "--role", "admin", "--json", *common)
    assert re.fullmatch(r"http://127\.0\.0\.1:8754/#token=[\w-]{43}", json.loads(invited.stdout)["link"])
    with LabelStore.open(project.evaluation(NAME) / "study.db") as store, store.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT name, role FROM people").all() == [("ann", "admin")]
    assert not project.labels.exists()


def test_a_study_of_what_evaluate_left(tuned: Project, tiny_model_folder: Path) -> None:
    run(tuned, tiny_model_folder, "tuned", seeds=1)
    office, plan = open_study_of(tuned, study_settings(), "e", [], None)
    assert [item.pairing for item in plan.of("models")] == [("base", "tuned")] * 2
    rater = Rater(office, plan)
    while (task := rater.next()) is not None:
        rater.do(task)
    office.close()
    found = study_results(tuned, "e")
    assert (found["answers"], found["prompts"], found["pairings"][0]["a"]) == (8, 2, "tuned")
    run(tuned, tiny_model_folder, "tuned", seeds=1)  # evaluating again makes the same videos: answers go on counting
    office, again = open_study_of(tuned, study_settings(), "e", [], None)
    office.close()
    assert again == plan
