"""Take the pictures of the study's page that the guide shows, from the page as it is now.

Usage: python tools/study_pictures.py            (rewrites docs/images/study-*.webp; needs Chromium)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from label_pictures import DESK, FOLDER, STANDING, press, save  # noqa: E402
from tests.study_room import MODELS, make_evaluation, open_room, served  # noqa: E402
from tests.web.conftest import CHROMIUM, FLAGS, Desk  # noqa: E402

from densedpo.miniworld import scenes  # noqa: E402
from densedpo.miniworld.defects import plant  # noqa: E402


def draw(model: str, prompt: int, _seed: int) -> NDArray[np.uint8]:
    """Return a drawn scene; the first model's has a melting outline."""
    scene = scenes.draw_scene(scenes.Subject("yellow", "triangle", "orbit"), "study pictures", prompt)
    frames: NDArray[np.uint8] = plant("deformed", scene, 1).frames if model == MODELS[0] else scenes.render(scene)
    return frames


def open_page(browser: Browser, url: str, name: str, size: tuple[int, int], scheme: str, *, touch: bool) -> Page:
    """Sign in and read the instructions in a window of one's own."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        has_touch=touch,
        is_mobile=touch,
    )
    page = context.new_page()
    page.goto(url)
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="I have read this").click()
    Desk.ready(page)
    return page


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        project = make_evaluation(Path(temporary) / "project", text="a yellow triangle orbiting, scene", draw=draw)
        office, plan = open_room(project, overlap=3)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with served(office, plan) as url:
            page = open_page(browser, url, "Ada", DESK, "light", touch=False)
            press(page, "1 3")
            save(page, FOLDER / "study-work.webp")
            page = open_page(browser, url, "Ben", STANDING, "dark", touch=True)
            press(page, "2 2")
            save(page, FOLDER / "study-tablet-dark.webp")
        browser.close()
        office.close()


if __name__ == "__main__":
    main()
