"""The study's page in a browser: whole videos by keyboard alone, saved as one goes, and nothing from anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page
from tests.study_room import MODELS, make_evaluation, open_room, served
from tests.web.conftest import Desk
from tests.web.label_site import holds, until

from densedpo.evaluation.study.plan import Plan
from densedpo.labels.people.office import Office

pytestmark = [pytest.mark.web, pytest.mark.slow]


@dataclass
class Room:
    """An open study and its address; quacks like the stand-in where a desk needs it."""

    office: Office
    plan: Plan
    url: str

    def said(self) -> list[str | None]:
        """Return the current answers as the person saw the sides, pair by pair in order of storing."""
        shown = {"a": "first", "b": "second"}
        found = []
        for event in self.office.store.current():
            flipped = event.shown_first == "b"
            answer = {"a": "b", "b": "a"}.get(event.answer or "", event.answer) if flipped else event.answer
            found.append(shown.get(answer or "", answer))
        return found


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    office, plan = open_room(make_evaluation(tmp_path / "project"))
    with served(office, plan) as url:
        yield Room(office, plan, url)
    office.close()


def start(desk: Desk, name: str = "Ada") -> Page:
    """Sign in and read the instructions, by keyboard."""
    page = desk.open(work=False)
    page.get_by_label("Your name").wait_for()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="I have read this").wait_for()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").startswith("I have read this"):
            break
    page.keyboard.press("Enter")
    Desk.ready(page)
    return page


def current(page: Page) -> int:
    found: int = page.locator(".ask").evaluate_all("rows => rows.findIndex((row) => row.ariaCurrent === 'step')")
    return found


def answers(page: Page) -> list[str]:
    found: list[str] = page.locator(".ask").evaluate_all("rows => rows.map((row) => row.dataset.answer)")
    return found


def press(page: Page, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def whole(page: Page) -> bool:
    """Whether the pictures lie inside the stage, which cuts off what does not."""
    stage, panes = (page.locator(name).bounding_box() for name in (".stage", ".panes"))
    assert stage and panes
    return panes["y"] >= stage["y"] - 1 and panes["y"] + panes["height"] <= stage["y"] + stage["height"] + 1


def test_a_study_is_done_by_keyboard_alone(room: Room, make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(room)
    heard: list[str] = []
    desk.context.on("response", lambda reply: heard.append(f"{reply.url} {reply.headers}"))
    page = start(desk)
    assert page.locator(".caption").inner_text().startswith("a red square")
    assert (current(page), answers(page)) == (0, ["", "", "", ""])
    frame = page.locator(".drift").get_attribute("data-frame")
    press(page, "1 3")
    assert (current(page), answers(page)) == (2, ["first", "tie", "", ""])
    until(lambda: page.locator(".drift").get_attribute("data-frame") != frame)  # answering does not stop the video
    press(page, "Enter")  # two are open: the page says so and stays
    assert page.locator(".toast").first.inner_text() == "2 questions have no answer yet."
    press(page, "2 4 Backspace")
    assert (current(page), answers(page)) == (3, ["first", "tie", "second", ""])
    press(page, "ArrowUp 1 5 Enter")  # changed one's mind; 5 is the labelling page's key
    holds(page, "document.querySelector('.ask').dataset.answer === ''")
    for last in (False, True):
        Desk.ready(page)
        shown = page.evaluate("history.state.task")
        assert whole(page), "the pictures are cut off"  # from the second pair on, too
        press(page, "Shift+2 Enter")
        if not last:
            holds(page, f"history.state.task !== '{shown}'")
    holds(page, "document.body.dataset.screen === 'done'")
    assert "You compared 3 pairs. That was all." in page.inner_text("#screen")
    until(lambda: len(room.said()) == 12)
    assert room.said()[:2] == ["first", "tie"]
    assert sorted(str(one) for one in room.said()) == [
        "cannot_judge",
        *["first"] * 2,
        *["second"] * 8,
        "tie",
    ]
    assert desk.troubles == []
    told = "\n".join([*heard, page.content(), page.evaluate("JSON.stringify({ ...localStorage })")])
    for secret in (*MODELS, "prompt0", *room.plan.items):
        assert secret not in told


def test_reloading_and_losing_the_network_lose_nothing(room: Room, make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(room)
    page = start(desk)
    press(page, "2 1 n")
    page.keyboard.type("looks better")
    press(page, "Escape")
    until(lambda: page.locator(".saved").inner_text() == "✓ saved")
    page.reload()
    Desk.ready(page)
    assert (current(page), answers(page)) == (2, ["second", "first", "", ""])
    desk.context.set_offline(True)
    press(page, "3")
    holds(page, "document.querySelector('.saved').dataset.state === 'offline'")
    desk.context.set_offline(False)
    until(lambda: page.locator(".saved").inner_text() == "✓ saved", 30)
    assert room.said() == ["second", "first", "tie"]


def test_the_same_player_steps_loops_and_keeps_time(room: Room, make_desk: Callable[..., Desk]) -> None:
    page = start(make_desk(room))
    press(page, "Space Home")
    holds(page, "document.querySelector('.drift').dataset.frame === '0'")
    press(page, "ArrowRight ArrowRight")
    holds(page, "document.querySelector('.drift').dataset.frame === '2'")
    press(page, "ArrowDown y u 1")  # neither the question nor a key of labelling moves the video
    assert page.locator(".drift").get_attribute("data-frame") == "2"
    assert page.locator(".drift").inner_text() == "drift 0 (max 0) frames"
    press(page, "Home ArrowLeft")
    holds(page, "document.querySelector('.drift').dataset.frame === '16'")
    press(page, "- l")
    assert "0.75×" in page.locator(".transport").inner_text()
    assert "off" in page.locator(".transport").inner_text()
    press(page, "h")
    keys = page.locator("dialog.settings").inner_text()
    assert "Next question" in keys
    assert not any(word in keys for word in ("Limbs", "Both bad", "Next segment"))


def test_everything_can_be_touched_on_a_tablet(room: Room, make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(room, viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True)
    page = desk.open(work=False)
    page.get_by_label("Your name").fill("Bob")
    page.get_by_role("button", name="Start").tap()
    page.get_by_role("button", name="I have read this").tap()
    Desk.ready(page)
    for place, name in ((2, "Second"), (0, "First"), (1, "Tie"), (3, "Cannot judge")):
        page.locator(".ask").nth(place).get_by_role("button", name=f": {name},").tap()
    assert answers(page) == ["first", "tie", "second", "cannot_judge"]
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    small = page.locator(".ask button").evaluate_all("all => all.filter((one) => one.offsetHeight < 44).length")
    assert small == 0
    shown = page.evaluate("history.state.task")
    page.get_by_role("button", name="Next pair").tap()
    holds(page, f"history.state.task !== '{shown}'")
    assert desk.troubles == []


@pytest.mark.parametrize("size", [(390, 844), (844, 390)])
def test_on_a_phone_the_prompt_is_whole_and_the_videos_stay(
    tmp_path: Path, make_desk: Callable[..., Desk], size: tuple[int, int]
) -> None:
    office, plan = open_room(
        make_evaluation(tmp_path / "long", text="a gymnast runs, leaps and lands on both feet; " * 9)
    )
    with served(office, plan) as url:
        phone = {"width": size[0], "height": size[1]}
        page = start(make_desk(Room(office, plan, url), viewport=phone, has_touch=True, is_mobile=True))
        caption, stage = page.locator(".caption"), page.locator(".stage")
        assert caption.evaluate("node => node.scrollHeight - node.clientHeight") <= 1
        above, below = caption.bounding_box(), stage.bounding_box()
        assert above and below and above["y"] + above["height"] <= below["y"] + 1
        for question in page.locator(".ask").all():
            question.get_by_role("button", name="Second").tap()  # fails where it is covered or cannot be reached
            shown = stage.bounding_box()
            assert shown and 0 <= shown["y"] <= phone["height"] - shown["height"]
        assert answers(page) == ["second"] * 4
        page.get_by_role("button", name="Next pair").tap()
        holds(page, "document.querySelector('.ask').dataset.answer === ''")
    office.close()


def test_the_team_sees_progress_only(room: Room, make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(room)
    page = start(desk)
    press(page, "Shift+1 Enter")
    until(lambda: room.office.desk.me(room.office.roster.everybody()[0]).progress.done == 1)
    page = desk.open("/admin", work=False)
    page.get_by_role("heading", name="Study: the team").wait_for()
    text = page.inner_text("#screen")
    assert "1 / 3" in text
    assert "Hidden while the study runs" in text
    assert not any(word in text for word in ("Ties", "a better", "Agreement", "First", "disagreements"))
    assert [option.inner_text() for option in page.locator("select option").all()] == ["annotator", "admin"]
    assert desk.troubles == []
