"""Labelling with the keyboard alone: every key, few presses, undo, offers, tags, notes, own keys; mouse and touch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.web.conftest import Desk, MakeSite
from tests.web.label_site import Site, holds, until

pytestmark = pytest.mark.web
Open = Callable[..., tuple[Page, Site]]


@pytest.fixture
def opened(make_site: MakeSite, make_desk: Callable[..., Desk]) -> Open:
    def make(**settings: Any) -> tuple[Page, Site]:
        site = make_site(**settings)
        desk = make_desk(site)
        page = desk.open()
        page.desk = desk  # type: ignore[attr-defined]
        return page, site

    return make


def press(page: Page, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def current(page: Page) -> int:
    found: int = page.evaluate("[...document.querySelectorAll('.cell')].findIndex((cell) => cell.ariaCurrent)")
    return found


# What every action changes, as an expression; the presses before it set the scene. Answers are looked at in the store.
DRIFT = "document.querySelector('.drift').dataset.frame"
TRANSFORM = "document.querySelector('.pane canvas').computedStyleMap().get('transform').toString()"
STAGE = "document.querySelector('.stage').dataset"
SPEED = "document.querySelector('[aria-label^=Speed]').textContent"
CURRENT = "[...document.querySelectorAll('.cell')].findIndex((cell) => cell.ariaCurrent)"
CHANGES: dict[str, tuple[str, str]] = {
    "play": ("", "document.querySelector('.transport .icon:nth-child(2)').ariaLabel"),
    "back": ("Space Home", DRIFT),
    "forward": ("Space Home", DRIFT),
    "restart": ("Space Home ArrowRight", DRIFT),
    "slower": ("", SPEED),
    "faster": ("", SPEED),
    "normal": ("Equal", SPEED),
    "loop": ("", "document.querySelector('[aria-label^=Loop]').textContent"),
    "previous": ("ArrowDown", CURRENT),
    "next": ("", CURRENT),
    "previous_pair": ("", "document.body.dataset.screen"),
    "layout_side": ("w", f"{STAGE}.layout"),
    "layout_stacked": ("", f"{STAGE}.layout"),
    "layout_flip": ("", f"{STAGE}.layout"),
    "layout_wipe": ("", f"{STAGE}.layout"),
    "layout_difference": ("", f"{STAGE}.layout"),
    "flip": ("e", f"{STAGE}.shown"),
    "wipe_left": ("r", "document.querySelector('.wipe').value"),
    "wipe_right": ("r", "document.querySelector('.wipe').value"),
    "gain": ("t", "document.querySelector('.pane[data-side=difference] .sign').textContent"),
    "zoom": ("", TRANSFORM),
    "pan_left": ("z", TRANSFORM),
    "pan_right": ("z", TRANSFORM),
    "pan_up": ("z", TRANSFORM),
    "pan_down": ("z", TRANSFORM),
    "caption": ("", "document.querySelector('.caption').hidden"),
    "help": ("", "document.querySelector('dialog.settings').open"),
    "note": ("", "document.activeElement.className"),
    "undo": ("2", "document.querySelectorAll('.cell[data-answer=second]').length"),
    "clear": ("2 ArrowUp", "document.querySelectorAll('.cell[data-answer=second]').length"),
    "same": ("2", "document.querySelectorAll('.cell[data-answer=second]').length"),
    "rest_same": ("2", "document.querySelectorAll('.cell[data-answer=second]').length"),
    "submit": ("Shift+2", "document.querySelector('.top progress').value"),
    **{
        f"tag_{tag}": ("", "document.querySelectorAll('.tag[aria-pressed=true]').length")
        for tag in ("limbs", "morphing", "blur", "popping", "impossible_motion")
    },
    **{
        f"{kind}{answer}": ("", f"document.querySelectorAll('.cell[data-answer={answer}]').length")
        for kind in ("", "rest_")
        for answer in ("first", "second", "tie", "both_bad", "cannot_judge")
    },
}
PHYSICAL = {
    "space": "Space",
    "left": "ArrowLeft",
    "right": "ArrowRight",
    "up": "ArrowUp",
    "down": "ArrowDown",
    "-": "Minus",
    "=": "Equal",
    "+": "Shift+Equal",
    "?": "Shift+Slash",
    ",": "Comma",
    ".": "Period",
    "[": "BracketLeft",
    "]": "BracketRight",
    "pageup": "PageUp",
    "pagedown": "PageDown",
}


def physical(key: str) -> str:
    if key in PHYSICAL:
        return PHYSICAL[key]
    *held, last = key.split("+")
    named = PHYSICAL.get(last, last.title() if len(last) > 1 else last)
    return "+".join([*(part.replace("ctrl", "Control").replace("shift", "Shift") for part in held), named])


LIST = "async () => (await import('/static/js/keys.js')).ACTIONS.map(({ id, keys }) => [id, keys])"


@pytest.mark.slow
def test_every_key_of_every_action_works(opened: Open) -> None:
    page, _ = opened(caption="a red square")
    actions = dict(page.evaluate(LIST))
    assert set(actions) == set(CHANGES) | {"next_pair"}
    for name, (before, watched) in CHANGES.items():
        for key in actions[name]:
            page.evaluate("localStorage.clear()")
            page.goto("about:blank")
            page.goto(page.desk.site.url)  # type: ignore[attr-defined]
            Desk.ready(page)
            page.desk.site.events.clear()  # type: ignore[attr-defined]
            page.desk.site.submitted.clear()  # type: ignore[attr-defined]
            press(page, before)
            if name.startswith("pan"):  # away from the edge first
                press(page, "Shift+ArrowRight Shift+ArrowDown" if name in {"pan_left", "pan_up"} else "z")
            if "Home" in before:
                holds(page, f"{DRIFT} === '{before.count('ArrowRight')}'")
            was = page.evaluate(watched)
            page.keyboard.press(physical(key))
            holds(page, f"({watched}) !== {was!r}".replace("True", "true").replace("False", "false"), 5)
    assert page.desk.troubles == []  # type: ignore[attr-defined]


def test_a_pair_of_five_segments_takes_six_presses(opened: Open) -> None:
    page, site = opened()
    press(page, "1 2 3 4 5 Enter")
    until(lambda: site.submitted == ["task0"])
    assert site.letters("task0") == "12=x?"
    holds(page, f"{CURRENT} === 0")
    press(page, "Shift+2 Enter")  # and two where all are alike
    until(lambda: site.submitted == ["task0", "task1"])
    assert site.letters("task1") == "22222"


def test_a_submit_with_open_segments_leads_to_the_first_of_them(opened: Open) -> None:
    page, site = opened()
    press(page, "1 ArrowDown 2 Enter")
    assert current(page) == 1
    assert page.get_by_text("3 segments have no answer yet.").count() == 1
    assert site.submitted == []


def test_submitting_with_the_last_answer_can_be_chosen(opened: Open) -> None:
    page, site = opened()
    page.keyboard.press("h")
    page.get_by_label("Submit with the last answer").check()
    page.keyboard.press("Escape")
    press(page, "1 1 1 1 2")
    until(lambda: site.submitted == ["task0"])
    assert site.letters("task0") == "11112"


def test_undo_goes_back_one_step_at_a_time(opened: Open) -> None:
    page, site = opened()
    press(page, "1 2 Shift+3")
    until(lambda: site.letters("task0") == "12===")
    press(page, "Backspace")
    until(lambda: site.letters("task0") == "12...")
    assert current(page) == 2
    press(page, "Control+z")
    until(lambda: site.letters("task0") == "1....")
    assert current(page) == 1
    press(page, "Backspace Backspace")
    until(lambda: site.letters("task0") == ".....")


def test_filling_the_rest_keeps_what_was_answered(opened: Open) -> None:
    page, site = opened()
    press(page, "ArrowDown ArrowDown 4 ArrowUp ArrowUp ArrowUp ArrowUp 1 f")
    until(lambda: site.letters("task0") == "11x11")


def test_offered_ties_are_skipped_taken_and_marked(opened: Open) -> None:
    page, site = opened(offers=(1, 3))
    press(page, "1")
    assert current(page) == 2
    press(page, "2 ArrowUp")
    assert current(page) == 3
    press(page, "4")  # one offer is overruled
    press(page, "1")
    assert page.get_by_text("Submit + 1 offered tie").count() == 1
    press(page, "Enter")
    until(lambda: site.submitted == ["task0"])
    assert site.letters("task0") == "1=2x1"
    assert {segment: event["offered"] for segment, event in site.current("task0").items()} == {
        0: False,
        1: True,
        2: False,
        3: False,
        4: False,
    }


def test_tags_and_notes_go_with_the_answer(opened: Open) -> None:
    page, site = opened()
    press(page, "y o n")
    page.keyboard.type("1 the hand, again")
    assert site.events == []
    press(page, "Enter")
    page.reload()  # nothing is answered yet, and nothing is lost
    Desk.ready(page)
    assert page.locator(".note").input_value() == "1 the hand, again"
    press(page, "2")
    until(lambda: site.letters("task0") == "2....")
    assert site.current("task0")[0]["tags"] == ["limbs", "popping"]
    assert site.current("task0")[0]["note"] == "1 the hand, again"
    press(page, "ArrowUp y")
    until(lambda: site.current("task0")[0]["tags"] == ["popping"])
    press(page, "n")
    page.keyboard.type("!")
    until(lambda: site.current("task0")[0]["note"] == "1 the hand, again!")
    assert all(0 <= event["dwell_s"] < 60 for event in site.events)


def test_the_whole_video_may_be_answered(opened: Open) -> None:
    page, site = opened(whole=True)
    press(page, "1 1 1 1 1")
    assert current(page) == 5
    assert page.get_by_text("Whole video (optional)").count() == 1
    press(page, "2 Enter")
    until(lambda: site.submitted == ["task0"])
    assert site.current("task0")[-1]["answer"] == "second"
    press(page, "Shift+3 Enter")  # but need not be
    until(lambda: site.submitted == ["task0", "task1"])
    assert -1 not in site.current("task1")


def test_a_submitted_pair_can_be_changed(opened: Open) -> None:
    page, site = opened()
    press(page, "Shift+1 Enter")
    until(lambda: site.submitted == ["task0"])
    press(page, "PageUp")
    holds(page, "document.querySelectorAll('.cell[data-answer=first]').length === 5")
    press(page, "ArrowDown 2")
    until(lambda: site.letters("task0") == "12111")
    press(page, "PageDown")
    holds(page, "document.querySelectorAll('.cell[data-answer=first]').length === 0")
    page.get_by_role("button", name="My pairs").click()
    page.get_by_role("button", name="a red square drifting").first.click()
    holds(page, "document.querySelectorAll('.cell[data-answer=second]').length === 1")


def test_a_key_can_be_changed_and_stays_changed(opened: Open) -> None:
    page, site = opened()
    page.keyboard.press("h")
    page.get_by_role("button", name="First: 1; change").click()
    page.keyboard.press("2")
    assert page.get_by_text("no longer means “Second”").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".answer[data-answer=first] kbd").inner_text() == "2"
    press(page, "2")
    until(lambda: site.letters("task0") == "1....")
    page.reload()
    Desk.ready(page)
    press(page, "2")
    until(lambda: site.letters("task0") == "11...")
    page.keyboard.press("h")
    page.get_by_role("button", name="Reset all keys").click()
    page.get_by_role("button", name="Close").last.click()
    press(page, "2")
    until(lambda: site.letters("task0") == "112..")


def test_keys_of_the_team_come_from_the_server(opened: Open) -> None:
    page, site = opened(settings={"keys": {"first": ["a"], "tie": "s"}, "layout": "stacked"})
    assert page.locator(".stage").get_attribute("data-layout") == "stacked"
    press(page, "a s 1")
    until(lambda: site.letters("task0") == "1=...")


def test_mouse_alone_is_enough(opened: Open) -> None:
    page, site = opened()
    for answer in ("first", "second", "tie", "both_bad", "cannot_judge"):
        page.locator(f".answer[data-answer={answer}]").click()
    page.locator(".answers .submit").click()
    until(lambda: site.submitted == ["task0"])
    assert site.letters("task0") == "12=x?"
    page.locator(".cell").nth(3).click()
    assert current(page) == 3
    press(page, "1")  # the keys still belong to the page
    until(lambda: site.letters("task1") == "...1.")


def test_touch_alone_is_enough(make_site: MakeSite, make_desk: Callable[..., Desk]) -> None:
    site = make_site()
    desk = make_desk(site, viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True)
    page = desk.open()
    for _ in range(5):
        page.locator(".answer[data-answer=second]").tap()
    for box in page.locator(".answer, .tag, .transport button:visible").all():
        size = box.bounding_box()
        assert size
        assert size["height"] >= 40
    page.locator(".answers .submit").tap()
    until(lambda: site.submitted == ["task0"])
    assert site.letters("task0") == "22222"
    assert desk.troubles == []


def test_tab_reaches_the_answers_and_enter_presses_them(opened: Open) -> None:
    page, site = opened()
    page.evaluate("document.querySelector('.scrub').focus()")
    while page.evaluate("document.activeElement.dataset.answer") != "both_bad":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(lambda: site.letters("task0") == "x....")
    assert site.submitted == []


def test_the_guide_lists_every_key(opened: Open) -> None:
    page, _ = opened()
    written = page.evaluate(
        "async () => { const { ACTIONS, capOf } = await import('/static/js/keys.js');"
        " const cap = (key) => '`' + capOf(key) + '`';"
        " return ACTIONS.map(({ text, keys }) => `${text} ${keys.map(cap).join(' or ')}`); }"
    )
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "labelling.md").read_text(encoding="utf-8")
    assert [line for line in written if line not in guide] == []
