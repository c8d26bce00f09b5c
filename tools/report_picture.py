"""Take the picture of the demo's report that README shows, from the report as it is written now.

Usage: python tools/report_picture.py [PROJECT]    (rewrites docs/images/demo-report.webp; needs Chromium)

PROJECT is what ``make demo`` made, ``demo-project`` unless given. Its evaluation holds the figures of README's tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from label_pictures import FOLDER, save  # noqa: E402
from tests.web.conftest import CHROMIUM, FLAGS  # noqa: E402

from densedpo.report.build import build_report  # noqa: E402
from densedpo.store.project import Project  # noqa: E402


def main() -> None:
    """Write the report again and take its first page."""
    page_file = build_report(Project(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-project")))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 640})
        page.goto(page_file.resolve().as_uri())
        page.wait_for_load_state("networkidle")
        save(page, FOLDER / "demo-report.webp")
        browser.close()


if __name__ == "__main__":
    main()
