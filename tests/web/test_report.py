"""The report in a real browser, opened from disk: nothing in the console, nothing from the network, players in step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tests.unit.report.project_maker import make_project
from tests.web.label_site import until
from tests.web.payloads import PAYLOADS

from densedpo.report.build import build_report
from densedpo.store.project import Project

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.web,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAYLOAD = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">{{7*7}}'
SIZES = {"desk": (1280, 720), "phone": (390, 844)}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    captions = dict.fromkeys((0, 1), PAYLOAD)
    root = tmp_path_factory.mktemp("web") / "a project"
    return build_report(make_project(root, pairs=3, runs=("dense", "<b>x"), captions=captions, prompt=PAYLOAD))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


class Watched:
    """An open page and everything that should not have happened on it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.troubles: list[str] = []
        page.on("console", lambda message: self.troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("request", lambda request: self._check(request.url))

    def _check(self, url: str) -> None:
        if not url.startswith(("file://", "data:", "blob:file:")):
            self.troubles.append(f"request: {url}")

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        self.page.locator("#audit-segments").scroll_into_view_if_needed()  # figures are drawn when they come near
        self.page.locator("#audit-segments .main-svg").first.wait_for()
        return self.page


@pytest.fixture
def watched(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Watched]:
    scheme: Literal["light", "dark"]
    scheme, size = getattr(request, "param", ("light", "desk"))
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    yield Watched(context.new_page())
    context.close()


@pytest.mark.parametrize("watched", [("light", "desk"), ("dark", "desk"), ("light", "phone")], indirect=True)
def test_the_whole_page_is_quiet_and_fits(watched: Watched, index: Path) -> None:
    page = watched.open(index)
    length = page.evaluate("document.body.scrollHeight")
    for plot in page.locator(".plot").all():  # drawn when they come near
        plot.scroll_into_view_if_needed()
        plot.locator(".main-svg").first.wait_for()
    assert page.evaluate("document.body.scrollHeight") == length  # nothing moved under the reader's eyes
    for section in ("summary", "audit", "judges", "pairs", "training", "evaluation", "study-1", "provenance"):
        assert page.locator(f"#{section}").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("window.pwned") is None
    assert page.get_by_text("<script>window.pwned=1</script>").count() > 0
    assert watched.troubles == []


def test_the_watch_itself_can_see_trouble(watched: Watched, index: Path, tmp_path: Path) -> None:
    broken = tmp_path / "report"
    shutil.copytree(index.parent, broken)
    text = (broken / "index.html").read_text(encoding="utf-8")
    planted = '<script>window.pwned=1</script><img src="http://127.0.0.1:9/x.png"></body>'
    (broken / "index.html").write_text(text.replace("</body>", planted), encoding="utf-8")
    page = watched.open(broken / "index.html")
    assert page.evaluate("window.pwned") is None  # the policy holds even against markup that got in
    assert len(watched.troubles) >= 2


def test_plots_take_the_colours_of_the_theme(watched: Watched, index: Path) -> None:
    page = watched.open(index)
    colour = "getComputedStyle(document.querySelector('#audit-segments .point')).fill"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(300)
    assert page.evaluate(colour) != light
    assert watched.troubles == []


def test_a_print_has_every_plot_and_all_in_light(watched: Watched, index: Path) -> None:
    page = watched.open(index)
    page.emulate_media(media="print", color_scheme="dark")
    empty = "[...document.querySelectorAll('.plot')].filter((plot) => !plot.querySelector('.main-svg')).length"
    until(lambda: page.evaluate(empty) == 0)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert watched.troubles == []


def player(page: Page) -> Any:
    found = page.locator("#pairs .player").first
    found.scroll_into_view_if_needed()
    return found


DRIFTS = """async (figure) => {
  const videos = [...figure.querySelectorAll('video')];
  const drifts = [];
  const end = performance.now() + 5000;
  while (performance.now() < end) {
    await new Promise(requestAnimationFrame);
    const times = videos.map((video) => video.currentTime);
    if (videos.every((video) => !video.paused && !video.seeking)) drifts.push(Math.max(...times) - Math.min(...times));
  }
  return drifts;
}"""


def test_all_sides_stay_within_one_frame_for_five_seconds(watched: Watched, index: Path) -> None:
    page = watched.open(index)
    figure = player(page)
    assert figure.locator("video").count() == 3
    figure.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_timeout(500)
    drifts = sorted(figure.evaluate(DRIFTS))
    assert len(drifts) > 50
    assert drifts[-1] * 8 < 1.0
    assert drifts[len(drifts) // 2] * 8 < 0.3
    figure.get_by_role("button", name="Pause").click()
    assert figure.locator("video").evaluate_all("videos => videos.every((video) => video.paused)")
    assert watched.troubles == []


def test_a_frame_step_shows_the_next_frame_on_every_side(watched: Watched, index: Path) -> None:
    page = watched.open(index)
    figure = player(page)
    for count in range(1, 4):
        figure.get_by_role("button", name="One frame forward").click()
        page.wait_for_timeout(250)
        frames = figure.locator("video").evaluate_all("videos => videos.map((video) => video.currentTime * 8)")
        assert all(count < frame < count + 1 for frame in frames)
    figure.locator(".scrub").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(250)
    assert figure.locator(".clock").inner_text().endswith("3/33")


def test_a_segment_loops_until_it_is_chosen_again(watched: Watched, index: Path) -> None:
    page = watched.open(index)
    figure = player(page)
    segment = figure.locator(".segment").nth(1)
    segment.click()
    assert segment.get_attribute("aria-pressed") == "true"
    times = []
    for _ in range(30):
        page.wait_for_timeout(100)
        times.append(figure.locator("video").first.evaluate("video => video.currentTime"))
    assert min(times) >= 0.9
    assert max(times) <= 2.1
    assert any(later < earlier for earlier, later in pairwise(times))
    segment.click()
    assert segment.get_attribute("aria-pressed") == "false"


def test_the_keyboard_reaches_and_plays(watched: Watched, index: Path) -> None:
    page = watched.open(index)
    figure = player(page)
    figure.locator(".scrub").focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(600)
    assert not figure.locator("video").first.evaluate("video => video.paused")
    page.keyboard.press("Tab")
    assert figure.locator(".segment").first.evaluate("button => button === document.activeElement")


def test_players_out_of_sight_let_go_of_their_videos(watched: Watched, index: Path) -> None:
    page = watched.open(index)
    player(page)
    page.wait_for_timeout(300)
    assert page.locator("#pairs video[src]").count() > 0
    page.locator("#provenance").scroll_into_view_if_needed()
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(600)
    assert page.locator("#pairs video[src]").count() == 0
    assert watched.troubles == []


def test_sixty_scripts_in_data_stay_text(watched: Watched, tmp_path: Path) -> None:
    halves = {0: " ".join(PAYLOADS[:30]), 1: " ".join(PAYLOADS[30:])}
    project = make_project(tmp_path / "sixty", pairs=3, runs=("dense",), captions=halves, prompt=halves[0])
    page = watched.page
    page.goto(build_report(project).as_uri())
    text = page.evaluate("document.body.textContent")
    assert [payload for payload in PAYLOADS if payload not in text] == []
    assert page.evaluate("window.pwned") is None
    assert watched.troubles == []


def test_an_empty_project_opens_quietly(watched: Watched, tmp_path: Path) -> None:
    watched.page.goto(build_report(Project(tmp_path)).as_uri())
    watched.page.wait_for_timeout(300)
    assert watched.page.locator(".missing").count() == 5
    assert watched.troubles == []
