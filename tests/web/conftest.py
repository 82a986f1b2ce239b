"""A browser on the built book, with everything outside the book shut off."""

import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LAUNCH = (
    "--no-sandbox",  # CI runs as root, and opens these pages only
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # No name leads anywhere but to the book.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def page_names() -> list[str]:
    """Every page of the book; not the redirect at its door, nor source listings."""
    names = [path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html")]
    return sorted(
        name
        for name in names
        if name != "index.html" and not name.startswith(("_static/", "_modules/"))
    )


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Opened:
    """A page of the book, with a record of what went wrong while it was open."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.faults: list[str] = []
        self.outside: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", self._hear)
        page.on("requestfailed", lambda r: self.faults.append(f"failed: {r.url}"))
        page.on("response", self._answer)
        page.on("request", self._note)

    def _hear(self, message) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console {message.type}: {message.text}")

    def _answer(self, response) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status}: {response.url}")

    def _note(self, request) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.outside.append(request.url)

    def open(self, name: str) -> Page:
        self.page.goto(self.base + name, wait_until="networkidle")
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        return self.page


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    if not (HTML / "index.html").is_file():
        pytest.fail("there is no built book in _build/html: run `make web`")
    handler = partial(Silent, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=[*LAUNCH])
        except Error as error:
            pytest.fail(
                "no browser: install chromium (Debian: apt-get install chromium), or "
                "run .venv/bin/playwright install chromium, or let CHROMIUM name one. "
                f"The message was: {error.message}"
            )
        yield browser
        browser.close()


@contextmanager
def new_context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)  # machines of CI can be slow
    yield context
    context.close()


@pytest.fixture
def book(browser: Browser, base_url: str) -> Iterator[Opened]:
    """A page of its own: what a test changes, such as the theme, stays with it."""
    with new_context(browser) as context:
        yield Opened(context.new_page(), base_url)


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One cache for all pages, so that the scripts are fetched once."""
    with new_context(browser) as context:
        yield context


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in page_names()
    ],
)
def each(
    request: pytest.FixtureRequest, context: BrowserContext, base_url: str
) -> Iterator[Opened]:
    """Each page of the book in turn, opened once for all tests of this module."""
    opened = Opened(context.new_page(), base_url)
    opened.open(request.param)
    yield opened
    opened.page.close()
