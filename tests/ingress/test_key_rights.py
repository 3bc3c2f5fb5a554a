"""What a bearer key lets its caller do, over HTTP without Ray."""

import asyncio
import hashlib
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from starlette.datastructures import Headers

from farm.errors import RequestError
from farm.ingress.access import authentication as access
from farm.ingress.access.authentication import caller_of, check_host
from farm.ingress.access.keys import Keys
from farm.ingress.app import make_app
from farm.model.farm_api import FarmApi
from farm.settings import Key, Settings
from tests.support.asgi import StillFarm, client


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


SETTINGS = Settings(
    keys={
        hashed("root"): Key(tenant="acme", operator=True),
        hashed("user"): Key(tenant="acme"),
        hashed("slow"): Key(tenant="acme", per_minute=60.0),
        hashed("other"): Key(tenant="acme", per_minute=60.0),
        hashed("slower"): Key(tenant="acme", per_minute=0.5),
    }
)


def app(replicas: int = 1) -> Any:
    return make_app(cast("FarmApi", StillFarm()), SETTINGS, replicas)


def asked(
    app: Any, key: str, path: str = "/v1/models", method: str = "GET", **headers: str
) -> httpx2.Response:
    async def ask() -> httpx2.Response:
        async with client(app, key) as http:
            return await http.request(method, path, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("header", "code", "message"),
    [
        ("", "missing_api_key", "no key was given: send 'Authorization: Bearer KEY'"),
        ("Bearer", "missing_api_key", "no key was given: send 'Authorization: Bearer KEY'"),
        ("Bearer   ", "missing_api_key", "no key was given: send 'Authorization: Bearer KEY'"),
        ("Basic user", "missing_api_key", "no key was given: send 'Authorization: Bearer KEY'"),
        ("Bearer wrong", "invalid_api_key", "the key is not known here"),
    ],
)
def test_who_has_no_key_is_refused(header: str, code: str, message: str) -> None:
    answer = asked(app(), "", Authorization=header)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == (code, message)


@pytest.mark.parametrize("header", ["Bearer user", "bearer user", "BEARER  user "])
def test_a_key_may_be_spelt_as_http_allows(header: str) -> None:
    assert asked(app(), "", Authorization=header).status_code == 200


def test_operators_alone_reach_the_workers() -> None:
    call = "/v1/farm/workers/nobody/drain", "POST"
    assert asked(app(), "root", *call).status_code == 404  # there is no such worker
    refused = asked(app(), "user", *call)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "operators_only")
    assert refused.json()["error"]["message"] == "this key lacks operator rights"
    assert asked(app(), "", *call).status_code == 401
    without_keys = make_app(cast("FarmApi", StillFarm()), Settings())
    assert asked(without_keys, "", *call).status_code == 404  # whoever is at the machine


def test_a_caller_is_named_by_a_key_that_is_known() -> None:
    keys = Keys(SETTINGS)
    assert caller_of(Headers({"authorization": "Bearer user"}), keys) == hashed("user")
    assert caller_of(Headers({"authorization": "Bearer wrong"}), keys) == ""
    assert caller_of(Headers(), keys) == ""


@pytest.mark.parametrize(
    ("replicas", "key", "gaps", "waits"),
    [
        (1, "slow", [0.0] * 11, [""] * 10 + ["1"]),  # one a second, ten saved up
        (1, "slow", [0.0] * 10 + [0.5, 0.5], [""] * 10 + ["1", ""]),
        (2, "slow", [0.0] * 6, [""] * 5 + ["2"]),  # half of it at each of two
        (1, "slower", [0.0, 1.0, 118.5, 1.0], ["", "119", "1", ""]),
    ],
)
def test_a_key_may_ask_so_often(
    replicas: int,
    key: str,
    gaps: list[float],
    waits: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: now))
    api, pauses = app(replicas), []
    for gap in gaps:
        now += gap
        answer = asked(api, key)
        assert answer.status_code in (200, 429)
        pauses.append(answer.headers.get("retry-after", ""))
        if answer.status_code == 429:
            error = answer.json()["error"]
            times = {"slow": "60", "slower": "0.5"}[key]
            assert error["message"] == f"this key may send {times} requests a minute"
            assert error["code"] == "rate_limit_exceeded"
    assert pauses == waits
    for other in ("user", "other"):  # another's key is another's, even at the same rate
        assert asked(api, other).status_code == 200


def test_a_farm_without_keys_listens_to_its_own_machine() -> None:
    with pytest.raises(RequestError) as caught:
        check_host("10.0.0.1", Settings())
    assert str(caught.value) == (
        "the farm would listen at 10.0.0.1 and has no keys: set FARM_KEYS or FARM_KEYS_FILE, or "
        "have Ray Serve listen at 127.0.0.1 (serve start --http-host 127.0.0.1)"
    )
    check_host("127.0.0.1", Settings())
    check_host("10.0.0.1", SETTINGS)
