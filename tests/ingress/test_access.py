"""Whose pages may ask a farm, over HTTP without Ray."""

import asyncio
import hashlib
from typing import Any, cast

import httpx2
import pytest

from farm.errors import RequestError
from farm.ingress.access.authentication import check_host
from farm.ingress.app import make_app
from farm.model.farm_api import FarmApi
from farm.settings import Key, Settings

Headers = list[tuple[str, str]]
FRIEND, STRANGER = "https://friend.example", "https://stranger.example"
KEYS = {hashlib.sha256(b"sesame").hexdigest(): Key(tenant="acme")}


# A proxy's word for each kind of thing that it may tell.
PROXIES = """
    X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Server X-Forwarded Forwarded
    X-Real-IP X-Real-Port Via X-Via CF-Connecting-IP CF-Connecting-IPv6 CF-RAY CF-IPCountry
    CDN-Loop True-Client-IP Client-IP X-Client-IP X-Cluster-Client-IP X-ClientIP Fastly-Client-IP
    Fly-Client-IP X-Remote-IP X-Remote-Addr Remote-Addr X-Originating-IP X-Original-For
    X-Original-Host X-Original-URL X-Rewrite-URL X-ProxyUser-Ip Proxy-Client-IP WL-Proxy-Client-IP
    X-Azure-ClientIP X-Azure-FDID X-Envoy-External-Address X-Amzn-Trace-Id X-Amz-Cf-Id
    CloudFront-Viewer-Address X-Appengine-User-IP X-Vercel-Forwarded-For X-NF-Client-Connection-IP
    Akamai-Origin-Hop X-Akamai-Edgescape Incap-Client-IP X-Sucuri-ClientIP X-Varnish Max-Forwards
    X-ARR-LOG-ID Front-End-Https X-Scheme X-Url-Scheme X-SSL-Client-Verify X-Auth-Request-User
    Remote-User X-Remote-User Tailscale-User-Login X-Kong-Request-Id X-Host HTTP_X_FORWARDED_FOR
    Proxy-Connection X-Forward-For Ngrok-Trace X-Goog-IAP-JWT-Assertion
""".split()  # noqa: SIM905
# What programs of this machine send: curl, browsers, SDKs, tracing.
PROGRAMS = dict(
    line.split(": ", 1)
    for line in """\
Accept: */*
Accept-Encoding: gzip, zstd
Authorization: Bearer none
Cache-Control: no-cache
Connection: keep-alive
Content-Type: application/json
Cookie: a=b
DNT: 1
Idempotency-Key: one
If-None-Match: "x"
Last-Event-ID: 3
OpenAI-Organization: o
Prefer: wait
Priority: u=1
Range: bytes=0-3
Sec-CH-UA: "x"
Sec-Fetch-Dest: empty
Sec-Fetch-Mode: cors
Sec-GPC: 1
Stability-Client-ID: x
traceparent: 00-1-1-01
Upgrade-Insecure-Requests: 1
User-Agent: curl/8
X-API-Key: k
X-B3-TraceId: 1
X-Client-Version: 1
X-Http-Method-Override: GET
X-Request-ID: 1
X-Requested-With: XMLHttpRequest
X-Skip: 1
X-Stainless-Lang: python
X-Stainless-Raw-Response: true""".splitlines()
)
OPEN, FRIENDLY, KEYED = Settings(), Settings(cors_origins=(FRIEND,)), Settings(keys=KEYS)
APPS = {
    id(settings): make_app(cast("FarmApi", None), settings) for settings in (OPEN, FRIENDLY, KEYED)
}


async def ask(app: Any, client: str, method: str, headers: Headers) -> httpx2.Response:
    transport = httpx2.ASGITransport(app, client=(client, 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        return await http.request(method, "/v1/models", headers=headers)


def asked(
    settings: Settings, method: str = "GET", client: str = "127.0.0.1", **headers: str
) -> httpx2.Response:
    app = APPS.get(id(settings)) or make_app(cast("FarmApi", None), settings)
    return asyncio.run(ask(app, client, method, list(headers.items())))


def refused(answer: httpx2.Response) -> str:
    """The code of a refusal; empty where the farm has answered."""
    assert answer.status_code in (200, 403), answer.text
    return "" if answer.status_code == 200 else str(answer.json()["error"]["code"])


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


@pytest.mark.parametrize("name", PROXIES)
def test_without_keys_what_a_proxy_passes_on_is_refused(name: str) -> None:
    for spelt in (name, name.upper(), name.lower()):
        answer = asked(OPEN, **{spelt: "127.0.0.1"})
        assert refused(answer) == "keys_needed"
        assert f"came through a proxy ({name.lower()})" in answer.json()["error"]["message"]
    empty = asked(FRIENDLY, Origin=FRIEND, **{name: ""})
    assert refused(empty) == "keys_needed"
    with_key = asked(KEYED, Authorization="Bearer sesame", **{name: "127.0.0.1"})
    assert refused(with_key) == ""


def test_without_keys_what_nginx_passes_on_by_default_is_refused() -> None:
    app: Any = APPS[id(OPEN)]

    async def old(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"http_version": "1.0"}, receive, send)

    assert refused(asyncio.run(ask(old, "127.0.0.1", "GET", []))) == "keys_needed"


def test_without_keys_programs_of_this_machine_are_served() -> None:
    assert refused(asked(OPEN, **PROGRAMS)) == ""
    for name, value in PROGRAMS.items():
        assert refused(asked(OPEN, **{name: value})) == "", name


@pytest.mark.parametrize(
    ("site", "served"),
    [
        ("same-origin", True),
        ("none", True),  # typed into the address bar
        ("cross-site", False),
        ("same-site", False),
        ("Cross-Site", False),
        ("", False),
        ("of a kind to come", False),
    ],
)
def test_without_keys_other_pages_are_refused_that_name_no_origin(site: str, served: bool) -> None:
    friends = FRIENDLY
    for settings in (OPEN, friends):
        answer = asked(settings, **{"Sec-Fetch-Site": site})
        assert refused(answer) == ("" if served else "other_origin")
    own = asked(friends, Origin="http://localhost", **{"Sec-Fetch-Site": site})
    assert refused(own) == ("" if served else "other_origin")
    assert refused(asked(friends, Origin=FRIEND, **{"Sec-Fetch-Site": site})) == ""


def test_without_keys_a_page_elsewhere_leads_nowhere() -> None:
    assert refused(asked(OPEN, Referer=f"{STRANGER}/page")) == "other_origin"
    assert refused(asked(OPEN, Referer="http://[")) == "other_origin"
    assert refused(asked(OPEN, Referer="http://localhost/page")) == ""
    friends = FRIENDLY
    assert refused(asked(friends, Origin=FRIEND, Referer=f"{FRIEND}/page")) == ""


@pytest.mark.parametrize("name", ["Origin", "Host", "Sec-Fetch-Site", "Referer"])
@pytest.mark.parametrize("first", [True, False])
def test_a_header_given_twice_is_looked_at_twice(name: str, first: bool) -> None:
    good = {"Host": "localhost", "Sec-Fetch-Site": "none"}.get(name, "http://localhost")
    bad = {"Host": "farm.example", "Sec-Fetch-Site": "cross-site"}.get(name, STRANGER)
    app = APPS[id(OPEN)]
    twice = [(name, good), (name, bad)] if first else [(name, bad), (name, good)]
    assert asyncio.run(ask(app, "127.0.0.1", "GET", twice)).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "farm.example"])
def test_binding_elsewhere_without_keys_refuses_to_start(host: str) -> None:
    with pytest.raises(RequestError, match=f"listen at {host} and has no keys: set FARM_KEYS or"):
        check_host(host, Settings())
    check_host(host, Settings(keys=KEYS))
    check_host("127.0.0.1", Settings())
