"""The HTTP API below a path prefix gives the same answers; and models are found by name."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from farm.model.job import State
from tests.support.asgi import DEFAULTS, bearer, client, still_app
from tests.support.done_farm import VIDEO, DoneFarm

RESULT = "/v2beta/image-to-video/result/" + b"acme".hex().ljust(64, "0")
OPENAI, STABILITY = {"error"}, {"id", "name", "errors"}


def prefixed(app: Any, way: str) -> Any:
    """The app as a proxy, `--root-path` or a mount serves it below /farm/v1."""
    if way == "mount":
        return Starlette(routes=[Mount("/farm/v1", app)])

    async def root(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/farm/v1"}, receive, send)

    return root


def asked(app: Any, *requests: tuple[str, str]) -> list[httpx2.Response]:
    async def ask() -> list[httpx2.Response]:
        async with client(app) as http:
            return [await http.request(method, path) for method, path in requests]

    return asyncio.run(ask())


@pytest.mark.parametrize("way", ["root_path", "mount"])
def test_answers_have_their_shapes_below_a_prefix(way: str, tmp_path: Path) -> None:
    app = prefixed(still_app(DoneFarm(tmp_path)), way)
    wanted = [
        ("GET", "/v2beta/nowhere", 404, STABILITY),
        ("PUT", "/v2beta/image-to-video", 405, STABILITY),
        ("POST", "/v2beta/image-to-video", 400, STABILITY),
        ("GET", "/v2beta/image-to-video/result/" + "0" * 64, 404, STABILITY),
        ("GET", "/v1/nowhere", 404, OPENAI),
        ("GET", "/v1/videos/nobody", 404, OPENAI),
        ("POST", "/v1/videos", 415, OPENAI),
    ]
    answers = asked(app, *((method, f"/farm/v1{path}") for method, path, *_ in wanted))
    for answer, (method, path, status, shape) in zip(answers, wanted, strict=True):
        found = (answer.status_code, answer.json().keys())
        assert found == (status, shape), (method, path, answer.text)
    content, result, health, events, page, docs = asked(
        app,
        *(
            ("GET", f"/farm/v1{path}")
            for path in (
                *("/v1/videos/acme/content", RESULT, "/healthz", "/v1/videos/acme/events"),
                *("/", "/docs"),
            )
        ),
    )
    assert content.content == result.content == VIDEO
    assert health.json() == {"status": "ok"}
    assert events.headers["content-type"].startswith("text/event-stream")
    assert page.status_code == docs.status_code == 200


@pytest.mark.parametrize("prefix", ["", "/farm/v1"])
def test_a_cancelled_generation_is_no_error_of_the_farms(prefix: str, tmp_path: Path) -> None:
    farm = DoneFarm(tmp_path, state=State.CANCELLED, results=())
    app = still_app(farm)
    (answer,) = asked(prefixed(app, "root_path") if prefix else app, ("GET", prefix + RESULT))
    assert (answer.status_code, answer.json()["name"]) == (404, "not_found")
    assert answer.json()["errors"][0].endswith("was cancelled")


def test_models_by_name() -> None:
    names = ("nano", "stabilityai/stable-video-diffusion-img2vid-xt", "/models/own")
    app = still_app(models=names)
    found = asked(app, *(("GET", f"/v1/models/{name}") for name in names))
    assert [answer.json()["id"] for answer in found] == list(names)
    (listed,) = asked(app, ("GET", "/v1/models"))
    defaults = DEFAULTS.model_dump(mode="json")
    described = [item | {"defaults": defaults} for item in listed.json()["data"]]
    assert described == [answer.json() for answer in found]
    quoted, none = asked(
        app, ("GET", "/v1/models/" + names[1].replace("/", "%2F")), ("GET", "/v1/models/a/b")
    )
    assert quoted.json() == found[1].json()
    assert (none.status_code, none.json()["error"]["code"]) == (404, "model_not_found")
    assert names[1] in none.json()["error"]["message"]

    async def without_key() -> int:
        async with client(app, "") as http:
            return (await http.get("/v1/models/nano", headers=bearer("wrong"))).status_code

    assert asyncio.run(without_key()) == 401
