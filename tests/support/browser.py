"""A headless browser, for tests of pages that have a script."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browsing() -> Iterator:
    """Yield a browser; skip the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with sync_api.sync_playwright() as playwright:
        # Root, as in containers, has no sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visiting(browser, address: str, *, width: int = 1280, refused: int = 0, **how) -> Iterator:
    """Yield a page, and check that its script failed nowhere and nothing came from elsewhere.

    The browser has to report as many refusals, of the service or by the page's own policy, as are
    expected, and nothing else.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, **how)
    page = context.new_page()
    page.set_default_timeout(20_000)
    errors, origins, said = [], set(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    page.on("response", lambda answer: origins.add(answer.url.split("/", 3)[2]))
    page.goto(address)
    yield page
    assert not errors
    assert len(said) == refused, said
    assert all("Failed to load" in text or "Security Policy" in text for text in said), said
    # The host of a file is empty, as is that of a data URL; that of blobs is the service's.
    host = address.split("/", 3)[2]
    assert {origin for origin in origins if origin and origin != host} == set()
    context.close()


def shown(page, side: str) -> list[tuple[str, str]]:
    """Return the move and the name of each result in "before" or "after"."""
    rows = page.locator(f"#{side} .result").all()
    return [(row.locator(".move").inner_text(), row.locator("bdi").inner_text()) for row in rows]
