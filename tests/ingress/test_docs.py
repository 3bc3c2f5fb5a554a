"""`/docs` works without access to any other host."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest
from playwright.sync_api import expect

from tests.front_door import Door, front_door
from tests.ingress.test_prefix import prefixed
from tests.support.asgi import client, still_app
from tests.support.chromium import chromium
from tests.support.inline_door import inline_serving


@pytest.mark.parametrize("prefix", ["", "/farm/v1"])
def test_all_that_the_page_asks_for_is_the_farms(prefix: str) -> None:
    app = still_app()

    async def ask(path: str) -> httpx2.Response:
        async with client(prefixed(app, "root_path") if prefix else app) as http:
            return await http.get(path)

    page = asyncio.run(ask(f"{prefix}/docs"))
    asked = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert len(asked) == 4, asked  # a script, a style, an icon, the schema
    for address in asked:
        assert not urlsplit(address).netloc, address
        assert asyncio.run(ask(urljoin(f"{prefix}/docs", address))).status_code == 200, address
    for source in re.findall(
        r"(?:script|style|connect|img)-src ([^;]*)", page.headers["content-security-policy"]
    ):
        assert "//" not in source


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with front_door() as opened:
        yield opened


def test_the_example_can_be_sent_as_it_is(tmp_path: Path) -> None:
    """By `Try it out`, without a change."""
    with inline_serving(tmp_path) as url, httpx2.Client(base_url=url) as http:
        paths = http.get("/openapi.json").json()["paths"]
        for path in ("/v1/videos", "/v1/videos/check"):
            content = paths[path]["post"]["requestBody"]["content"]
            answer = http.post(path, json=content["application/json"]["example"])
            assert answer.status_code == 200, answer.text


@pytest.mark.browser
def test_the_page_shows_every_operation(door: Door) -> None:
    console: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on(
            "console", lambda m: console.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: console.append(str(error)))
        page.goto(f"{door.url}/docs")
        shown = page.locator(".opblock-summary-path")
        expect(shown.first).to_be_visible(timeout=60_000)
        paths = page.request.get(f"{door.url}/openapi.json").json()["paths"]
        assert shown.count() == sum(len(operations) for operations in paths.values())
    assert console == []
