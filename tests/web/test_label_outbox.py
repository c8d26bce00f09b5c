"""Nothing is lost and nothing doubled: reload, lost network, lost replies, two tabs, the back button, a closed tab."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest
from playwright.sync_api import Page
from tests.web.conftest import Desk, MakeSite
from tests.web.label_site import Site, holds, until

pytestmark = pytest.mark.web
AWAY_S = float(os.environ.get("DENSEDPO_AWAY_S", "4"))  # 60 for the long run
MakeDesk = Callable[..., Desk]


def press(page: Page, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def letters(page: Page) -> str:
    """Return what the page shows as answered, one letter a segment."""
    found: str = page.evaluate(
        "[...document.querySelectorAll('.cell')].map((cell) => ({ first: '1', second: '2', tie: '=' })"
        "[cell.dataset.answer] ?? '.').join('')"
    )
    return found


def check_nothing_doubled(site: Site) -> None:
    counts = Counter((event["key"], event["segment"]) for event in site.events)
    assert max(counts.values()) == 1


def check_saved(page: Page) -> None:
    holds(page, "document.querySelector('.saved').dataset.state === 'saved'", 20)


def test_a_reload_shows_what_is_stored_and_goes_on(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    page = make_desk(site).open()
    press(page, "1 2")
    page.reload()
    Desk.ready(page)
    assert letters(page) == "12..."
    press(page, "3")
    until(lambda: site.letters("task0") == "12=..")
    assert len(site.events) == 3


def test_a_lost_network_loses_nothing(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    desk = make_desk(site)
    page = desk.open()
    holds(page, "performance.getEntriesByType('resource').filter((r) => r.name.includes('/media/')).length === 4")
    page.wait_for_timeout(500)
    site.down = True
    press(page, "1 2 3 1 2 Enter")  # a whole pair, submitted into nothing
    page.wait_for_timeout(500)
    press(page, "2 2")  # and two segments of the next
    page.wait_for_timeout(AWAY_S * 1000)
    assert "kept here" in page.locator(".saved").inner_text()
    assert (site.events, site.submitted) == ([], [])
    site.down = False
    check_saved(page)
    assert site.letters("task0") == "12=12"
    assert site.letters("task1") == "22..."
    assert site.submitted == ["task0"]
    assert len(site.events) == 7
    check_nothing_doubled(site)
    assert desk.troubles == []


def test_a_tab_closed_without_network_is_made_up_for_by_the_next(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    desk = make_desk(site)
    page = desk.open()
    page.wait_for_timeout(500)
    site.down = True
    press(page, "1 2 3")
    page.wait_for_timeout(300)
    page.close()
    site.down = False
    later = desk.open()
    assert letters(later) == "12=.."  # what waits counts already
    check_saved(later)
    until(lambda: site.letters("task0") == "12=..", 20)
    check_nothing_doubled(site)
    assert len(site.events) == 3


def test_a_lost_reply_stores_once(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    page = make_desk(site).open()
    site.mute = True
    press(page, "1 2 2 1 1 Enter")
    page.wait_for_timeout(2500)
    assert len(site.events) >= 1
    site.mute = False
    check_saved(page)
    assert site.letters("task0") == "12211"
    assert site.submitted == ["task0"]
    assert len(site.events) == 5
    check_nothing_doubled(site)


def test_reloading_in_the_middle_of_a_lost_reply_stores_once(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    page = make_desk(site).open()
    site.mute = True
    press(page, "1 2")
    page.wait_for_timeout(400)
    site.mute = False
    page.reload()
    Desk.ready(page)
    check_saved(page)
    assert letters(page) == site.letters("task0") == "12..."
    assert len(site.events) == 2


def test_two_tabs_mirror_each_other_and_the_last_word_counts(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    desk = make_desk(site)
    one, two = desk.open(), desk.open()
    one.bring_to_front()
    press(one, "1 2")
    until(lambda: letters(two) == "12...")
    two.bring_to_front()
    press(two, "ArrowUp ArrowUp 3")
    until(lambda: letters(one) == letters(two) and site.letters("task0") == letters(one))
    one.bring_to_front()
    press(one, "Shift+1")
    press(one, "Enter")
    until(lambda: site.submitted == ["task0"])
    holds(two, "document.getElementById('toasts').textContent.includes('another tab')")
    until(lambda: letters(two) == ".....")
    two.bring_to_front()
    press(two, "Shift+2 Enter")
    until(lambda: site.submitted == ["task0", "task1"])
    check_nothing_doubled(site)
    assert len(set(site.submitted)) == len(site.submitted)
    assert desk.troubles == []


def test_the_back_button_leads_to_the_pair_before_and_forward_again(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    page = make_desk(site).open()
    press(page, "Shift+1 Enter")
    holds(page, "document.querySelectorAll('.cell[data-answer=first]').length === 0")
    press(page, "2")
    page.go_back()
    until(lambda: letters(page) == "11111")
    press(page, "2")
    until(lambda: site.letters("task0") == "21111")
    page.go_forward()
    until(lambda: letters(page) == "2....")
    check_saved(page)
    assert (site.letters("task0"), site.letters("task1")) == ("21111", "2....")
    check_nothing_doubled(site)


def test_a_post_the_server_refuses_is_shown_and_kept(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    page = make_desk(site).open()
    store, site._store = site._store, lambda body: (422, {"error": "no such segment"})  # type: ignore[method-assign]
    press(page, "1")
    page.get_by_text("The server did not take this: no such segment").wait_for()
    assert "1 not taken" in page.locator(".saved").inner_text()
    site._store = store  # type: ignore[method-assign]
    press(page, "2")
    until(lambda: site.letters("task0") == ".2...")
    assert "no such segment" in page.evaluate("JSON.stringify({ ...localStorage })")
    page.locator(".saved").click()  # says why, and is done with it
    assert "Not taken by the server: " in page.locator(".toast.error").last.inner_text()
    until(lambda: page.locator(".saved").inner_text() == "✓ saved")


def test_signing_in_again_sends_what_waited(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    page = make_desk(site).open()
    site.signed_in = False
    press(page, "1")
    page.get_by_text("Please sign in again; nothing is lost.").wait_for()
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    until(lambda: site.letters("task0") == "1....")
    assert len(site.events) == 1


def test_without_storage_answers_still_reach_the_server(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    desk = make_desk(site)
    desk.context.add_init_script(
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"
    )
    page = desk.open()
    press(page, "1 2")
    until(lambda: site.letters("task0") == "12...")
    check_saved(page)
    assert page.get_by_text("This browser stores nothing").count() == 1


def test_the_sequence_rises_even_when_the_clock_goes_back(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    page = make_desk(site).open()
    press(page, "1 ArrowUp")
    page.evaluate("Date.now = () => 1000")
    press(page, "2")
    until(lambda: len(site.events) == 2)
    assert site.letters("task0") == "2...."


def test_answers_wait_for_their_author_when_somebody_else_signs_in(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    desk = make_desk(site)
    page, other = desk.open(), desk.open()
    site.signed_in = False
    page.bring_to_front()
    press(page, "1")
    page.get_by_text("Please sign in again; nothing is lost.").wait_for()
    site.annotator = "Ben"
    page.keyboard.type("Ben")
    page.keyboard.press("Enter")
    Desk.ready(page)
    holds(other, "document.querySelector('.who')?.textContent === 'Ben'")  # tabs share the session
    page.wait_for_timeout(1500)
    assert site.events == []
    site.annotator = "Ada"
    other.close()
    page.reload()
    Desk.ready(page)
    until(lambda: site.letters("task0") == "1....", 20)
    assert len(site.events) == 1
