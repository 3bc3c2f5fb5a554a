"""Whose pages may ask a farm, over HTTP without Ray."""

import asyncio
import hashlib
from typing import Any, cast

import httpx2
import pytest

from farm.ingress.app import make_app
from farm.ingress.protocol import Farm
from farm.settings import Key, Settings

FRIEND, STRANGER = "https://friend.example", "https://stranger.example"
KEYS = {hashlib.sha256(b"sesame").hexdigest(): Key(tenant="acme")}


def asked(settings: Settings, method: str = "GET", **headers: str) -> httpx2.Response:
    async def ask() -> httpx2.Response:
        app: Any = make_app(cast("Farm", None), settings)
        transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://farm") as client:
            return await client.request(method, "/v1/models", headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize("keys", [{}, KEYS])
def test_pages_of_named_origins_may_ask(keys: dict[str, Key]) -> None:
    settings = Settings(keys=keys, cors_origins=(FRIEND,))
    own = {"Authorization": "Bearer sesame"} if keys else {}
    answer = asked(settings, Origin=FRIEND, **own)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == FRIEND
    wish = {"Access-Control-Request-Method": "POST"}
    assert asked(settings, "OPTIONS", Origin=FRIEND, **wish).status_code == 200
    assert asked(settings, "OPTIONS", Origin=STRANGER, **wish).status_code == 400
    assert "access-control-allow-origin" not in asked(settings, Origin=STRANGER, **own).headers


def test_without_keys_other_pages_are_refused() -> None:
    for settings in (Settings(), Settings(cors_origins=(FRIEND,))):
        answer = asked(settings, Origin=STRANGER)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "other_origin")
        assert asked(settings, Origin="http://farm").status_code == 200  # the farm's own
    assert asked(Settings(), "OPTIONS", Origin=FRIEND).status_code == 405  # CORS is off
