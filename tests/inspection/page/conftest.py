"""A real browser, for the tests of `make test-browser`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faithfulness_plugin.benchmarks.inspection.cost import WITHOUT_NETWORK, installed_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=installed_browser(), args=WITHOUT_NETWORK)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser) -> Iterator[Any]:
    """Opens a page from disk; at the end there was no error, and no request but for the page and its own scripts."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(60_000)
    said: list[str] = []
    asked: list[str] = []

    def opened(path: Path, fragment: str = "") -> Any:
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.resolve().as_uri() + fragment)
        tab.wait_for_selector("html[data-ready=yes]")
        return tab

    yield opened
    context.close()
    assert said == []
    assert {url.split(":")[0] for url in asked} == {"file", "blob"}
