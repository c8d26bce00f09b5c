"""Take the pictures of the labelling page that the guide shows, from the page as it is now.

Usage: python tools/label_pictures.py            (rewrites docs/images/label-*.webp; needs Chromium)
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.web.conftest import CHROMIUM, FLAGS, Desk  # noqa: E402
from tests.web.label_site import Site  # noqa: E402
from tests.web.test_label_screens import overview  # noqa: E402

from densedpo.clips.encode import write_video  # noqa: E402
from densedpo.miniworld import scenes  # noqa: E402
from densedpo.miniworld.defects import plant  # noqa: E402

FOLDER = ROOT / "docs" / "images"
DESK, TABLET, STANDING = (1280, 720), (1180, 820), (820, 1180)
WIDTH_PX = 960


def make_site(folder: Path, **settings: object) -> Site:
    """Return a running stand-in whose pair is a drawn scene, clean and with a melting outline."""
    site = Site(folder, num_frames=33, size=32, caption="a yellow triangle orbiting", **settings)  # type: ignore[arg-type]
    scene = scenes.draw_scene(scenes.Subject("yellow", "triangle", "orbit"), "label pictures", 3)
    write_video(folder / "first.mp4", plant("deformed", scene, 1).frames, scenes.FPS, profile="view")
    write_video(folder / "second.mp4", scenes.render(scene), scenes.FPS, profile="view")
    site.start()
    return site


def shoot(page: Page, name: str, *, whole: bool = False) -> None:
    """Save what the page shows as docs/images/label-NAME.webp."""
    save(page, FOLDER / f"label-{name}.webp", whole=whole)


def save(page: Page, file: Path, *, whole: bool = False) -> None:
    """Save what the page shows, no wider than the guide."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(700)
    image = cv2.imdecode(np.frombuffer(page.screenshot(full_page=whole), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    height = round(image.shape[0] * WIDTH_PX / image.shape[1])
    if image.shape[1] > WIDTH_PX:
        image = cv2.resize(image, (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(file), image, [cv2.IMWRITE_WEBP_QUALITY, 82])


def press(page: Page, keys: str) -> None:
    """Press keys one after the other."""
    for key in keys.split():
        page.keyboard.press(key)


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        count = iter(range(100))

        def at(
            size: tuple[int, int], scheme: str, *, touch: bool = False, work: bool = True, **settings: object
        ) -> Page:
            folder = Path(temporary) / str(next(count))
            folder.mkdir()
            return open_page(browser, make_site(folder, **settings), size, scheme, touch=touch, work=work)

        take(at)
        browser.close()


def open_page(browser: Browser, site: Site, size: tuple[int, int], scheme: str, *, touch: bool, work: bool) -> Page:
    """Open the page of ``site`` in a window of its own."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        has_touch=touch,
        is_mobile=touch,
    )
    return Desk(context, site).open(work=work)


def take(at: Callable[..., Page]) -> None:
    """Walk through the screens."""
    page = at(DESK, "light", offers=(3,))
    press(page, "1 u 2 ArrowUp ArrowUp u ArrowDown ArrowDown")
    shoot(page, "work")
    press(page, "Space Home ArrowRight ArrowRight r ] ] ] ] ]")
    shoot(page, "wipe")
    press(page, "t m")
    shoot(page, "difference")
    press(page, "h")
    shoot(page, "keys")
    page = at(DESK, "dark", offers=(3,), whole=True)
    press(page, "1 2 2")
    shoot(page, "work-dark")
    page = at(TABLET, "dark", touch=True)
    press(page, "1 1")
    shoot(page, "tablet-dark")
    page = at(STANDING, "light", touch=True)
    press(page, "1 2 w")
    shoot(page, "tablet")
    page = at(DESK, "light", stage="instructions", work=False)
    page.wait_for_timeout(1500)
    shoot(page, "instructions", whole=True)
    page = at(DESK, "light", stage="qualification")
    press(page, "1 1 2 1 Enter")
    page.get_by_role("heading", name="as expected").wait_for()
    shoot(page, "qualification")
    page = at(DESK, "light", pairs=1)
    press(page, "Shift+2 Enter")
    shoot(page, "done")
    page.get_by_role("button", name="My pairs").last.click()
    shoot(page, "pairs")
    for scheme in ("light", "dark"):
        page = at(DESK, scheme, role="admin", overview=overview("Ada", "Ben", "Cleo"))
        page.goto(page.url + "admin")
        shoot(page, "team" if scheme == "light" else "team-dark", whole=True)


if __name__ == "__main__":
    main()
