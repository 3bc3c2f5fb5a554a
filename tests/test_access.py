"""Whose pages may ask a farm, over HTTP without Ray."""

import asyncio
import hashlib
from typing import Any, cast

import httpx2
import pytest

from farm.errors import RequestError
from farm.ingress.access import check_host
from farm.ingress.app import make_app
from farm.ingress.protocol import Farm
from farm.settings import Key, Settings

FRIEND, STRANGER = "https://friend.example", "https://stranger.example"
KEYS = {hashlib.sha256(b"sesame").hexdigest(): Key(tenant="acme")}


def asked(
    settings: Settings, method: str = "GET", client: str = "127.0.0.1", **headers: str
) -> httpx2.Response:
    async def ask() -> httpx2.Response:
        app: Any = make_app(cast("Farm", None), settings)
        transport = httpx2.ASGITransport(app, client=(client, 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.request(method, "/v1/models", headers=headers)

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
        assert asked(settings, Origin="http://localhost").status_code == 200  # the farm's own
    assert asked(Settings(), "OPTIONS", Origin=FRIEND).status_code == 405  # CORS is off


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("localhost", True),
        ("farm.localhost:8000", True),
        ("farm.example", False),  # a page of it had its name lead here
        ("127.0.0.1.farm.example", False),
        ("192.168.0.7:8000", False),
    ],
)
def test_without_keys_only_this_machine_is_served_by_its_own_names(host: str, served: bool) -> None:
    assert asked(Settings(), Host=host).status_code == (200 if served else 403)
    with_key = asked(Settings(keys=KEYS), Host=host, Authorization="Bearer sesame")
    assert with_key.status_code == 200
    answer = asked(Settings(), client="192.168.0.7", Host=host)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "keys_needed")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "farm.example"])
def test_binding_elsewhere_without_keys_refuses_to_start(host: str) -> None:
    with pytest.raises(RequestError, match=f"listen at {host} and has no keys: set FARM_KEYS"):
        check_host(host, Settings())
    check_host(host, Settings(keys=KEYS))
    check_host("127.0.0.1", Settings())
