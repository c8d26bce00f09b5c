"""The player of the labelling page: both sides on one clock, true frames, loops, speeds and layouts.

Every frame of the test videos carries its number as black and white fields, which are read back from the canvases.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.web.conftest import Desk, MakeSite
from tests.web.label_site import holds

pytestmark = pytest.mark.web
PLAY_S = float(os.environ.get("DENSEDPO_PLAY_S", "6"))  # 60 for the long run

READ = """
const read = (side) => {
  const canvas = document.querySelector(`.pane[data-side="${side}"] canvas`);
  const pixels = canvas.getContext('2d').getImageData(0, Math.floor(canvas.height / 8), canvas.width, 1).data;
  let number = 0;
  for (let bit = 0; bit < 8; bit += 1) {
    const at = Math.floor((bit + 0.5) * canvas.width / 8) * 4;
    if (pixels[at] > 128) number |= 1 << bit;
  }
  return number;
};
"""
BOTH = f"""() => {{ {READ}
  return [read('first'), read('second'), Number(document.querySelector('.drift').dataset.frame)];
}}"""
WATCH = f"""async (seconds) => {{ {READ}
  const seen = [];
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {{
    await new Promise(requestAnimationFrame);
    seen.push([read('first'), read('second'), Number(document.querySelector('.drift').dataset.frame)]);
  }}
  return seen;
}}"""


def both(page: Page) -> list[int]:
    found: list[int] = page.evaluate(BOTH)
    return found


def settle(page: Page, frame: int) -> None:
    holds(page, f"Number(document.querySelector('.drift').dataset.frame) === {frame}")


@pytest.fixture
def page(make_site: MakeSite, make_desk: Callable[..., Desk]) -> Page:
    return make_desk(make_site()).open()


def test_both_sides_show_the_same_frame_through_play_seek_loop_and_speed(page: Page) -> None:
    rounds: list[list[int]] = []
    for keys in ("l", "Equal", "Equal Equal", "Minus Minus Minus Minus", "0 ArrowDown", "l ArrowRight Space", "l Home"):
        for key in keys.split():
            page.keyboard.press(key)
        rounds += page.evaluate(WATCH, PLAY_S / 7)
    assert len(rounds) > 20 * PLAY_S
    assert max(abs(first - second) for first, second, _ in rounds) < 1
    assert {first - said for first, _, said in rounds} == {0}
    assert len({first for first, _, _ in rounds}) > 20
    assert "drift 0 (max 0)" in page.locator(".drift").inner_text()


def test_a_step_is_one_true_frame(page: Page) -> None:
    page.keyboard.press("Space")
    page.keyboard.press("Home")
    settle(page, 0)
    for frame in [1, 2, 3, 4, 5, 6, 7, 0, 1]:  # the segment is a loop
        page.keyboard.press("ArrowRight")
        settle(page, frame)
        assert both(page) == [frame, frame, frame]
    for frame in [0, 7, 6]:
        page.keyboard.press("Comma")
        settle(page, frame)
        assert both(page) == [frame, frame, frame]


def test_a_segment_loops_and_the_loop_can_be_changed(page: Page) -> None:
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(400)
    frames = {first for first, _, _ in page.evaluate(WATCH, 2.5)}
    assert frames <= set(range(8, 16))
    assert len(frames) == 8
    page.keyboard.press("l")
    page.wait_for_timeout(1200)
    assert page.evaluate(BOTH)[0] >= 16
    page.keyboard.press("l")  # off: stops on the last frame
    for _ in range(4):
        page.keyboard.press("Equal")
    settle(page, 39)
    assert page.get_by_label("Play (Space)").count() == 1


def test_speed_is_what_it_says(page: Page) -> None:
    page.keyboard.press("l")
    page.evaluate(WATCH, 5.5)  # once round, so that every frame is there
    for presses, speed in ((4, 4.0), (8, 0.1)):
        for _ in range(presses):
            page.keyboard.press("Equal" if speed > 1 else "Minus")
        seen = page.evaluate(WATCH, 2.0)
        moved = sum((later - earlier) % 40 for (earlier, *_), (later, *_) in pairwise(seen))
        assert 0.3 * 16 * speed - 1 <= moved <= 1.15 * 16 * speed + 1  # a busy machine may be late, never early


def test_the_scrubber_and_touch_reach_every_frame(page: Page) -> None:
    page.locator(".scrub").fill("29")
    settle(page, 29)
    assert both(page) == [29, 29, 29]
    page.locator(".scrub").focus()
    page.keyboard.press("ArrowLeft")
    settle(page, 28)


LAYOUTS: dict[str, tuple[str, list[str]]] = {
    "q": ("side", ["first", "second"]),
    "w": ("stacked", ["first", "second"]),
    "e": ("flip", ["first"]),
    "r": ("wipe", ["first", "second"]),
    "t": ("difference", ["difference"]),
}


@pytest.mark.parametrize("key", list(LAYOUTS))
def test_a_layout_shows_its_panes_inside_the_stage(page: Page, key: str) -> None:
    name, shown = LAYOUTS[key]
    page.keyboard.press(key)
    assert page.locator(".stage").get_attribute("data-layout") == name
    visible = [side for side in ("first", "second", "difference") if page.locator(f"[data-side={side}]").is_visible()]
    assert visible == shown
    stage = page.locator(".stage").bounding_box()
    boxes = [page.locator(f"[data-side={side}]").bounding_box() for side in shown]
    assert stage
    for box in boxes:
        assert box
        assert box["width"] > 100
        assert box["x"] >= stage["x"] - 1
        assert box["y"] + box["height"] <= stage["y"] + stage["height"] + 1
    if name == "side":
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]  # type: ignore[index]
    if name == "stacked":
        assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]  # type: ignore[index]


def test_flip_exchanges_the_videos_in_place(page: Page) -> None:
    page.keyboard.press("e")
    before = page.locator("[data-side=first]").bounding_box()
    page.keyboard.press("x")
    assert not page.locator("[data-side=first]").is_visible()
    assert page.locator("[data-side=second]").bounding_box() == before


PIXEL = """([side, x, y]) => {
  const canvas = document.querySelector(`.pane[data-side="${side}"] canvas`);
  const at = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
  return [...canvas.getContext('2d').getImageData(...at, 1, 1).data];
}"""


def test_the_difference_is_amplified(page: Page) -> None:
    page.keyboard.press("Space")
    page.keyboard.press("Home")
    settle(page, 0)
    page.keyboard.press("t")
    ground = [page.evaluate(PIXEL, [side, 0.5, 0.9])[0] for side in ("first", "second")]
    plain = abs(ground[0] - ground[1])
    assert 35 < plain < 45
    for gain in (4, 8, 16, 1, 2):
        assert page.evaluate(PIXEL, ["difference", 0.5, 0.9])[0] == pytest.approx(min(255, gain * plain), abs=2)
        assert page.evaluate(PIXEL, ["difference", 0.5, 0.1])[0] <= 2 * gain  # the number fields are equal
        page.keyboard.press("m")


def test_the_wipe_moves_by_key_and_pointer(page: Page) -> None:
    page.keyboard.press("r")
    clip = "getComputedStyle(document.querySelector('[data-side=second]')).clipPath"
    assert "50%" in page.evaluate(clip)
    page.keyboard.press("]")
    assert "55%" in page.evaluate(clip)
    box = page.locator("[data-side=first]").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 50, steps=4)
    page.mouse.up()
    assert float(page.locator(".wipe").input_value()) == pytest.approx(20, abs=1)


MATRIX = (
    "[...document.querySelectorAll('.pane canvas')].slice(0, 2).map((canvas) => getComputedStyle(canvas).transform)"
)


def test_zoom_and_pan_are_locked_on_both(page: Page) -> None:
    page.keyboard.press("z")
    page.keyboard.press("z")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    matrices = page.evaluate(MATRIX)
    assert len(set(matrices)) == 1
    assert matrices[0].startswith("matrix(4, 0, 0, 4, -")
    box = page.locator("[data-side=second]").bounding_box()
    assert box
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.wheel(0, -100)
    assert page.evaluate(MATRIX)[0].startswith("matrix(5, 0")
    page.locator("[data-side=first]").dblclick()
    assert page.evaluate(MATRIX)[0].startswith("matrix(1, 0, 0, 1, 0")


def test_the_next_pair_is_there_before_it_is_needed(make_site: MakeSite, make_desk: Callable[..., Desk]) -> None:
    site = make_site()
    page = make_desk(site).open()
    page.wait_for_timeout(1500)
    fetched = [path for path in site.requests if path.startswith("/media/")]
    assert len(fetched) == len(set(fetched)) == 4
    page.keyboard.press("Shift+1")
    site.down = True
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    seen: list[list[Any]] = page.evaluate(WATCH, 1.5)
    assert len({first for first, _, _ in seen}) == 8  # plays, though the network is gone


def test_a_broken_video_is_said_and_blocks_nothing(make_site: MakeSite, make_desk: Callable[..., Desk]) -> None:
    site = make_site()
    (site.folder / "second.mp4").write_bytes(b"no video")
    page = make_desk(site).open()
    assert page.locator("[data-side=second] .broken").is_visible()
    page.keyboard.press("Shift+5")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    assert site.letters("task0") == "?????"


TICKS = """async () => {
  const { Player, SPEEDS } = await import('/static/js/player/player.js');
  let tick = null;
  window.requestAnimationFrame = (call) => { tick = call; return 1; };
  performance.now = () => 0;
  const segments = [0, 8, 16, 24, 32].map((first) => ({ first_frame: first, num_frames: 8 }));
  const clip = { task: { width: 8, height: 8 }, segments, fps: 8, numFrames: 40, sources: [1, 1], errors: {},
    ready: Promise.resolve(), want() {}, has: () => true, drift: () => 0, pictures: () => [null, null] };
  const player = new Player({ open() {}, paint() {} });
  const seen = new Set();
  player.open(clip);
  player.choose(1);
  tick(0);
  player.addEventListener('frame', ({ detail }) => seen.add(detail.frame));
  player.play();
  let now = 0;
  for (const speed of SPEEDS) {
    player.setSpeed(speed);
    for (const step of [1000 / 60, 1000 / 48, 1000 / 144, 31.25, 125, 7]) {
      for (let count = 0; count < 3000; count += 1) tick(now += step);
    }
  }
  return [...seen].sort((one, two) => one - two);
}"""


def test_no_rounding_lets_a_loop_show_a_frame_beyond_it(make_site: MakeSite, make_desk: Callable[..., Desk]) -> None:
    page = make_desk(make_site()).open("/admin", work=False)
    assert page.evaluate(TICKS) == list(range(8, 16))
