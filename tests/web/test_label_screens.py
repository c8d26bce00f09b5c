"""The other screens of the labelling page: sign-in, instructions, qualification, own pairs, end, team; names, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.web.conftest import Desk, MakeSite
from tests.web.label_site import holds, until
from tests.web.payloads import PAYLOADS as SIXTY

pytestmark = pytest.mark.web
MakeDesk = Callable[..., Desk]

# What a cautious person's data would never hold; all of it must stay text.
PAYLOADS = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "<svg onload=window.pwned=1>",
    '"><script>window.pwned=1</script>',
    "'-window.pwned=1-'",
    "javascript:window.pwned=1",
    "<iframe srcdoc='<script>parent.pwned=1</script>'>",
    "<a href=javascript:window.pwned=1>x</a>",
    "</title><script>window.pwned=1</script>",
    "{{constructor.constructor('window.pwned=1')()}}",
    "<style>*{display:none}</style>",
    "<b>bold</b>&lt;i&gt;",
]


def estimate(value: float | None, n: int = 120) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "n": 0, "undefined": "because nobody saw a pair twice"}
    return {"value": value, "low": value - 0.08, "high": value + 0.06, "n": n, "undefined": None}


def overview(*names: str) -> dict[str, Any]:
    people = [
        {
            "annotator": name,
            "role": "annotator",
            "done": 40 + 7 * place,
            "last_seen": "2026-11-20T10:00:00Z",
            "median_dwell_s": 2.5 + place,
            "tie_rate": estimate(0.31),
            "first_rate": estimate(0.5),
            "gold": estimate(0.9, 12),
            "self_consistency": estimate(None),
            "flags": ["too fast", "always the same answer"] if place == 1 else [],
        }
        for place, name in enumerate(names)
    ]
    return {
        "team": {
            "done": 128,
            "total": 400,
            "seconds_left": 24000,
            "by_day": [{"day": f"2026-11-{day:02d}", "done": day * 3} for day in range(10, 20)],
        },
        "people": people,
        "agreement": [
            {"name": "Krippendorff's alpha, nominal", **estimate(0.62)},
            {"name": "Krippendorff's alpha, ordinal", **estimate(0.71)},
            {"name": "Cohen's kappa", **estimate(None)},
        ],
        "against_judges": [{"name": names[0] if names else "metric", **estimate(0.55)}],
        "answers": {"a": 210, "b": 190, "tie": 180, "both_bad": 30, "cannot_judge": 6},
        "dwell": {"edges_s": [0, 1, 2, 4, 8, 16], "counts": [12, 160, 240, 150, 40]},
        "disagreements": {"open": 7, "resolved": 3},
    }


def test_a_name_is_enough_where_no_invite_is_asked_for(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site(signed_in=False)
    page = make_desk(site).open(work=False)
    page.get_by_label("Your name").fill("Ada")
    page.keyboard.press("Enter")
    Desk.ready(page)
    assert "/api/session" in site.requests


def test_an_invite_signs_in_and_leaves_the_address_bar(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site(signed_in=False, token="secret")
    desk = make_desk(site)
    page = desk.open("/#token=secret")
    assert "secret" not in page.url
    assert all("secret" not in path for path in site.requests)
    page.go_back()
    assert "secret" not in page.url


def test_a_wrong_invite_is_said_and_can_be_mended(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site(signed_in=False, token="secret")
    page = make_desk(site).open("/#token=wrong", work=False)
    page.get_by_text("this invite is not valid").wait_for()
    page.get_by_label("Open your invite link, or paste it here").fill(f"{site.url}/#token=secret")
    page.keyboard.press("Enter")
    Desk.ready(page)


def test_instructions_come_first_and_their_examples_play(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site(stage="instructions")
    desk = make_desk(site)
    page = desk.open(work=False)
    page.get_by_role("heading", name="Which video is better").wait_for()
    playing = (
        "[...document.querySelectorAll('.examples video')].every((video) => video.readyState > 1 && !video.paused)"
    )
    assert page.locator(".examples video").count() == 6
    for video in page.locator(".examples video").all():
        video.scroll_into_view_if_needed()
    holds(page, playing)
    page.get_by_role("button", name="I have read this").click()
    Desk.ready(page)
    assert site.stage == "work"
    assert desk.troubles == []


def test_examples_stand_still_for_those_who_want_no_motion(make_site: MakeSite, make_desk: MakeDesk) -> None:
    page = make_desk(make_site(stage="instructions"), reduced_motion="reduce").open(work=False)
    page.get_by_role("heading", name="Which video is better").wait_for()
    page.wait_for_timeout(500)
    assert page.evaluate("[...document.querySelectorAll('video')].every((video) => video.paused && video.controls)")


def test_the_qualification_tells_what_was_expected(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site(stage="qualification", pairs=2)
    page = make_desk(site).open()
    assert page.get_by_text("Qualification round").count() == 1
    for key in ("1", "1", "2", "1", "1", "Enter"):
        page.keyboard.press(key)
    page.get_by_role("heading", name="4 of 5 as expected").wait_for()
    assert page.locator(".feedback .wrong").inner_text().startswith("✗ Segment 3 Expected: First.")
    for key in ("ArrowUp", "ArrowUp", "1", "Backspace", "y"):  # looking again is possible, answering is not
        page.keyboard.press(key)
    assert "4 of 5" in page.locator(".feedback").inner_text()
    assert site.letters("task0") == "11211"
    page.keyboard.press("Enter")
    holds(page, "document.querySelectorAll('.cell[data-answer=first]').length === 0")
    page.keyboard.press("Shift+1")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="5 of 5 as expected").wait_for()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Done. Thank you.").wait_for()


def test_a_reviewer_sees_what_the_labellers_said(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site(role="reviewer")
    task = site.task
    more = {"kind": "review", "others": [{"segment": 1, "answers": ["first", "tie"]}]}
    site.task = lambda task_id: task(task_id) | more  # type: ignore[method-assign]
    page = make_desk(site).open()
    assert page.locator(".others").inner_text() == ""
    page.keyboard.press("ArrowDown")
    assert "The labellers said: First, Tie." in page.locator(".question").inner_text()
    assert page.locator(".caption").inner_text().startswith("Review")


def test_the_end_says_so_and_new_work_is_found(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site(pairs=1)
    page = make_desk(site).open()
    page.keyboard.press("Shift+3")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Done. Thank you.").wait_for()
    assert "You labelled 1 pair." in page.locator(".done").inner_text()
    site.pairs = 2
    page.get_by_role("button", name="Is there more?").click()
    Desk.ready(page)
    assert page.locator(".cell[data-answer=tie]").count() == 0


def test_the_team_page_draws_figures_plots_and_invites(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site(role="admin", overview=overview("Ada", "Ben", "Cleo"))
    desk = make_desk(site)
    page = desk.open("/admin", work=False)
    page.get_by_text("128 / 400").wait_for()
    assert page.locator("svg.plot").count() == 5
    labels = page.locator("svg.plot").evaluate_all("plots => plots.map((plot) => plot.getAttribute('aria-label'))")
    assert any("Krippendorff's alpha, nominal 0.62 [0.54, 0.68], n = 120" in label for label in labels)
    assert page.get_by_text("because nobody saw a pair twice").count() >= 1
    assert page.locator(".flag").all_inner_texts() == ["too fast", "always the same answer"]
    page.get_by_label("Name").fill("Dora")
    page.get_by_label("Role").select_option("reviewer")
    page.get_by_role("button", name="Make an invite link").click()
    holds(page, "document.querySelector('.invite output').textContent.endsWith('#token=Dora-reviewer')")
    assert desk.troubles == []


@pytest.mark.parametrize(
    "given", [{}, {"people": [], "agreement": [], "team": {"by_day": []}, "dwell": {"counts": []}}]
)
def test_an_empty_team_page_is_quiet(make_site: MakeSite, make_desk: MakeDesk, given: dict[str, Any]) -> None:
    desk = make_desk(make_site(role="admin", overview=given))
    page = desk.open("/admin", work=False)
    page.get_by_role("heading", name="Labelling: the team").wait_for()
    assert desk.troubles == []


def test_the_team_page_is_closed_to_others(make_site: MakeSite, make_desk: MakeDesk) -> None:
    page = make_desk(make_site()).open("/admin", work=False)
    page.get_by_text("Only an admin may see this page.").wait_for()


@pytest.mark.slow
def test_script_in_data_stays_text(make_site: MakeSite, make_desk: MakeDesk) -> None:
    for payload in PAYLOADS:
        site = make_site(annotator=payload, caption=payload, role="admin", overview=overview(payload, payload))
        desk = make_desk(site)
        page = desk.open()
        assert page.locator(".caption").inner_text() == payload
        assert page.locator(".who").inner_text().startswith(payload[:20])
        page.keyboard.press("n")
        page.keyboard.type(payload)
        page.keyboard.press("Enter")
        page.keyboard.press("1")
        until(lambda site=site, payload=payload: site.current("task0").get(0, {}).get("note") == payload)
        page.get_by_role("button", name="My pairs").click()
        page.locator("td button.link").first.wait_for()
        assert page.locator("td button.link").first.inner_text() == payload
        page.goto(f"{site.url}/admin")
        page.locator(".panel td").first.wait_for()
        assert page.locator(".panel td").first.inner_text() == payload
        assert page.evaluate("window.pwned") is None
        assert desk.troubles == []
        desk.context.close()


def test_sixty_scripts_as_names_stay_text(make_site: MakeSite, make_desk: MakeDesk) -> None:
    desk = make_desk(make_site(role="admin", overview=overview(*SIXTY)))
    page = desk.open("/admin", work=False)
    page.locator(".panel td").first.wait_for()
    shown = "\n".join(page.locator(".panel td").all_inner_texts())
    assert [payload for payload in SIXTY if payload not in shown] == []
    assert page.evaluate("window.pwned") is None
    assert desk.troubles == []


@pytest.mark.slow
def test_sixty_scripts_as_captions_stay_text(make_site: MakeSite, make_desk: MakeDesk) -> None:
    site = make_site()
    desk = make_desk(site)
    page = desk.open()
    for payload in SIXTY:
        site.caption = payload
        page.reload()
        Desk.ready(page)
        assert page.locator(".caption").inner_text() == payload
        assert page.evaluate("window.pwned") is None
    assert desk.troubles == []


NAMELESS = """() => [...document.querySelectorAll('button, input, select, a, canvas, video, [role=img]')]
  .filter((node) => node.checkVisibility())
  .filter((node) => !(node.ariaLabel || node.textContent.trim() || node.labels?.length || node.title))
  .map((node) => node.outerHTML)"""
SIZES = [(1280, 720), (1180, 820), (820, 1180), (1920, 1080), (390, 844)]


def check(page: Page) -> None:
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_everything_has_a_name_and_fits(make_site: MakeSite, make_desk: MakeDesk, size: tuple[int, int]) -> None:
    site = make_site(stage="instructions", role="admin", overview=overview("Ada", "Ben"), whole=True)
    desk = make_desk(site, viewport={"width": size[0], "height": size[1]})
    page = desk.open(work=False)
    page.get_by_role("button", name="I have read this").wait_for()
    check(page)
    page.get_by_role("button", name="I have read this").click()
    Desk.ready(page)
    for layout in "wertq":
        page.keyboard.press(layout)
        check(page)
    for place in ("header", ".stage", ".transport", ".timeline", ".answers", ".tags"):  # all of it without scrolling
        box = page.locator(place).bounding_box()
        assert box
        assert box["y"] + box["height"] <= size[1] + 1, place
    stage = page.locator(".pane").first.bounding_box()
    assert stage
    assert stage["height"] > 0.15 * size[1]
    page.keyboard.press("h")
    check(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="My pairs").click()
    page.get_by_role("heading", name="My pairs").wait_for()
    check(page)
    page.goto(f"{site.url}/admin")
    page.get_by_role("heading", name="Labelling: the team").wait_for()
    check(page)
    assert desk.troubles == []


CONTRAST = """() => {
  const bright = (text) => { const [r, g, b] = text.match(/[\\d.]+/g).map((part) => { const c = part / 255;
    return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (node) => { for (let at = node; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/^rgba.*, 0\\)$|transparent/.test(colour)) return colour; }
    return 'rgb(255, 255, 255)'; };
  return [...document.querySelectorAll('button, p, span, b, td, th, li, h1, h2, label, output, kbd')]
    .filter((node) => node.checkVisibility() && !node.disabled && !node.closest(':disabled'))
    .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
    .map((node) => { const pair = [bright(getComputedStyle(node).color), bright(ground(node))];
      const [one, two] = pair.sort((a, b) => b - a);
      return [(one + 0.05) / (two + 0.05), node.className, node.textContent.slice(0, 30)]; })
    .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(make_site: MakeSite, make_desk: MakeDesk, scheme: str) -> None:
    site = make_site(stage="instructions", role="admin", overview=overview("Ada", "Ben"), offers=(4,))
    page = make_desk(site, color_scheme=scheme).open(work=False)
    page.get_by_role("button", name="I have read this").wait_for()
    assert page.evaluate(CONTRAST) == []
    page.get_by_role("button", name="I have read this").click()
    Desk.ready(page)
    for key in ("1", "2", "3", "4", "y"):
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert page.evaluate(CONTRAST) == []
    page.keyboard.press("h")
    assert page.evaluate(CONTRAST) == []
    page.goto(f"{site.url}/admin")
    page.get_by_role("heading", name="Labelling: the team").wait_for()
    assert page.evaluate(CONTRAST) == []


def test_the_theme_can_be_chosen(make_site: MakeSite, make_desk: MakeDesk) -> None:
    page = make_desk(make_site(), color_scheme="light").open()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.keyboard.press("h")
    page.get_by_label("Colours:").select_option("dark")
    assert page.evaluate(ground) != light
    page.reload()
    assert page.evaluate(ground) != light
