"""The page in the system's Chromium, before a farm in this process."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.support.chromium import chromium, path_of_chromium
from tests.support.inline_door import inline_serving


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with inline_serving(tmp_path_factory.mktemp("store")) as base:
        yield base


@pytest.fixture(scope="module")
def found() -> None:
    """Skips the tests before a farm is started for them, if there is no Chromium."""
    path_of_chromium()


@pytest.fixture(scope="module")
def browser(found: None, url: str) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def faults() -> list[str]:
    """What the console said that is wrong: errors, and breaches of the page's own policy."""
    return []


@pytest.fixture
def page(browser: Browser, url: str, faults: list[str]) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": 1280, "height": 900},
        base_url=url,
        permissions=["clipboard-read", "clipboard-write"],
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert faults == []
