"""The page and the real server together: a small project is labelled to its end, and the snapshot holds the answers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.web.conftest import Desk
from tests.web.label_site import holds, until

from densedpo.config import parse_settings
from densedpo.labels.snapshot import freeze
from densedpo.models.load import load_model
from densedpo.store.project import Project
from densedpo.store.tables import read_table
from densedpo.training.run import train

pytestmark = [pytest.mark.web, pytest.mark.slow]


@dataclass
class Real:
    """The running command and its project; quacks like the stand-in where a desk needs it."""

    project: Project
    url: str
    process: subprocess.Popen[str]


@pytest.fixture
def serve(pairs_project: Path) -> Iterator[Callable[..., Real]]:
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> Real:
        command = [sys.executable, "-m", "densedpo", "label", "serve", "--project", str(pairs_project), "--port", "0"]
        process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        running.append(process)
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"labelling page: (http://[\d.:]+)/", line):
                return Real(Project(pairs_project), found[1], process)
        raise AssertionError("the server did not start")

    yield start
    for process in running:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def make_real_desk(chromium: Browser) -> Iterator[Callable[..., Desk]]:
    contexts = []

    def make(real: Any, **settings: Any) -> Desk:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 720}, **settings})
        contexts.append(context)
        return Desk(context, real)

    yield make
    for context in contexts:
        context.close()


def sign_in(desk: Desk, name: str) -> Page:
    page = desk.open(work=False)
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="I have read this").click()
    Desk.ready(page)
    return page


def screen(page: Page) -> str:
    found: str = page.evaluate("document.body.dataset.screen")
    return found


def label_everything(page: Page) -> int:
    """Call the first shown video better in all pairs that come, by key; return how many came."""
    for count in range(100):
        holds(page, "['done', 'work'].includes(document.body.dataset.screen)", 20)
        if screen(page) == "done":
            return count
        Desk.ready(page)
        shown = page.evaluate("history.state.task")
        page.keyboard.press("Shift+1")
        page.keyboard.press("Enter")
        holds(page, f"document.body.dataset.screen === 'done' || history.state.task !== '{shown}'", 20)
    raise AssertionError("there is no end")


def test_a_round_of_labelling_becomes_a_snapshot_that_training_reads(
    serve: Callable[..., Real], make_real_desk: Callable[..., Desk], tiny_model_folder: Path
) -> None:
    real = serve("--overlap", "1", "--gold-every", "0", "--repeat-every", "0")
    desk = make_real_desk(real)
    page = sign_in(desk, "Ada")
    page.keyboard.press("3")
    until(lambda: page.locator(".saved").inner_text() == "✓ saved")
    page.reload()  # what is stored is shown again
    Desk.ready(page)
    assert page.locator(".cell").first.get_attribute("data-answer") == "tie"
    pairs = read_table(real.project.pairs_table)
    assert label_everything(page) == len(pairs)
    assert desk.troubles == []
    snapshot = freeze(real.project, "person", 1.0, keep_flagged=True)  # nobody labels as fast as a test
    rows = read_table(snapshot.path)
    assert {row["pair_id"] for row in rows} == {row["pair_id"] for row in pairs}
    answers = Counter(answer for row in rows for answer in row["segment_answers"])
    assert answers["tie"] == 1
    assert answers["a"] > 0 < answers["b"]  # the first shown is not always the same side
    chosen = {"max_steps": 2, "batch_size": 2, "micro_batch_size": 2, "lora_rank": 4, "eval_share": 0}
    settings = parse_settings({"model": str(tiny_model_folder), "device": "cpu", "train": chosen})
    summary = train(real.project, load_model(str(tiny_model_folder), device="cpu"), settings, "run", snapshot.path)
    assert (summary.steps, summary.snapshot) == (2, snapshot.id)


def test_a_server_killed_and_started_again_gets_every_answer_once(
    serve: Callable[..., Real], make_real_desk: Callable[..., Desk]
) -> None:
    real = serve("--gold-every", "0", "--repeat-every", "0")
    desk = make_real_desk(real)
    page = sign_in(desk, "Ada")
    page.keyboard.press("1")
    until(lambda: page.locator(".saved").inner_text() == "✓ saved")
    port = real.url.rpartition(":")[2]
    real.process.kill()
    real.process.wait(timeout=20)
    page.keyboard.press("2")
    holds(page, "document.querySelector('.saved').dataset.state === 'offline'")
    serve("--port", port, "--gold-every", "0", "--repeat-every", "0")
    holds(page, "document.querySelector('.saved').dataset.state === 'saved'", 30)
    page.reload()
    Desk.ready(page)
    shown = page.locator(".cell").evaluate_all("cells => cells.map((cell) => cell.dataset.answer)")
    assert shown[:3] == ["first", "second", ""]


def test_nothing_in_the_page_tells_the_sides_apart(
    serve: Callable[..., Real], make_real_desk: Callable[..., Desk]
) -> None:
    real = serve()
    desk = make_real_desk(real)
    heard: list[str] = []
    desk.context.on("response", lambda response: heard.append(f"{response.url} {response.headers}"))
    page = sign_in(desk, "Ada")
    page.wait_for_timeout(800)
    told = "\n".join([*heard, page.content(), page.evaluate("JSON.stringify({ ...localStorage })")])
    media = [line for line in heard if "/media/" in line]
    assert len(media) >= 2
    for row in read_table(real.project.pairs_table):
        for secret in (row["pair_id"], row["clip_id"], row["model_fingerprint"], "a.mp4", "b.mp4", "guided"):
            assert secret not in told
