"""A browser, the stand-in of the label server, and a page that records what should not have happened on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from tests.web.label_site import Site, holds

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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
MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    """Start stand-ins; all are stopped at the end."""
    servers: list[ThreadingHTTPServer] = []

    def make(**settings: Any) -> Site:
        folder = tmp_path / f"site{len(servers)}"
        folder.mkdir()
        site = Site(folder, **settings)
        servers.append(site.start())
        return site

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


class Desk:
    """One person's browser: its pages share cookies and storage; troubles are what the console should not have said."""

    def __init__(self, context: BrowserContext, site: Site) -> None:
        self.context, self.site = context, site
        self.troubles: list[str] = []

    def open(self, path: str = "/", *, work: bool = True) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("console", lambda message: self._console(message.type, message.text))
        page.on("dialog", lambda dialog: self.troubles.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self._request(request.url))
        page.goto(self.site.url + path)
        if work:
            self.ready(page)
        return page

    def _console(self, kind: str, text: str) -> None:
        if "ERR_EMPTY_RESPONSE" not in text and "ERR_INTERNET_DISCONNECTED" not in text and "401 (" not in text:
            self.troubles.append(f"{kind}: {text}")

    def _request(self, url: str) -> None:
        if not url.startswith((self.site.url + "/", "blob:" + self.site.url, "data:")):
            self.troubles.append(f"request: {url}")

    @staticmethod
    def ready(page: Page) -> None:
        """Wait until a frame of a pair is on the screen."""
        holds(page, "document.querySelector('.drift')?.dataset.frame !== undefined")


@pytest.fixture
def make_desk(chromium: Browser) -> Iterator[Callable[..., Desk]]:
    contexts = []

    def make(site: Site, **settings: Any) -> Desk:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 720}, **settings})
        contexts.append(context)
        return Desk(context, site)

    yield make
    for context in contexts:
        context.close()
