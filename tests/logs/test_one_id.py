"""One id from an HTTP request to the coordinator's and the workers' log, in one process."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from farm.caller import Caller, called_by, current_caller
from farm.client.proxy import FarmProxy
from farm.coordinator.coordinator import Coordinator
from farm.ingress.app import make_app
from farm.model.job import JobView, Submission
from farm.settings import Key, load_settings
from tests.support.asgi import bearer, client
from tests.support.farm_jobs import picture_bytes
from tests.support.inline_farm import coordinator, inline  # noqa: F401
from tests.support.log_lines import logged_lines

KEYS = {hashlib.sha256(b"sesame").hexdigest(): Key(tenant="acme", operator=True)}
FORM = {"size": "32x16", "num_frames": "2", "steps": "2", "model": "nano"}
Lines = list[dict[str, Any]]
Test = Callable[[httpx2.AsyncClient, Coordinator], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("inline")


def run(folder: Path, test: Test, behind_serve: bool = False) -> Lines:
    """Call an app that serves a whole coordinator; returns what was logged."""

    async def all_of_it() -> None:
        async with coordinator(folder, keys=KEYS) as one:
            settings = load_settings(store=str(folder), keys=KEYS)
            app = make_app(one, settings, behind_serve=behind_serve)
            async with client(app) as http:
                http.headers.update(bearer("sesame"))
                await test(http, one)

    with logged_lines() as lines:
        asyncio.run(all_of_it())
    return lines


async def submit(http: httpx2.AsyncClient, **headers: str) -> httpx2.Response:
    files = {"input_reference": ("a.png", picture_bytes())}
    return await http.post("/v1/videos", files=files, data=FORM, headers=headers)


async def ended(one: Coordinator, job: str) -> JobView:
    while (view := await one.show(job)).job.state.is_open:
        await asyncio.sleep(0.01)
    return view


def test_the_id_of_a_request_is_on_every_line_of_its_job(tmp_path: Path) -> None:
    async def test(http: httpx2.AsyncClient, one: Coordinator) -> None:
        answer = await submit(http, **{"X-Request-ID": "client-7"})
        assert answer.headers.get_list("x-request-id") == ["client-7"]
        view = await ended(one, answer.json()["id"])
        assert (view.job.state, view.job.request_id) == ("completed", "client-7")

    lines = run(tmp_path, test)
    by_worker = [line for line in lines if " took " in line["message"]]
    assert {line["task"] for line in by_worker} >= {"conditioning", "video"}
    for line in by_worker:
        assert (line["request_id"], line["tenant"]) == ("client-7", "acme")
        assert set(line) >= {"job", "clip", "task", "worker", "attempt"}
    assigned = [line for line in lines if " on renderer-0: " in line["message"]]
    assert [line["attempt"] for line in assigned if line["task"] == "conditioning"] == [
        line["attempt"] for line in by_worker if line["task"] == "conditioning"
    ]
    assert {line["request_id"] for line in assigned} == {"client-7"}
    (access,) = (line for line in lines if "status" in line and line["method"] == "POST")
    assert (access["route"], access["status"], access["tenant"]) == ("/v1/videos", 200, "acme")
    assert access["request_id"] == "client-7"
    assert 0 < access["seconds"] < 60


def test_head_is_logged_with_its_route(tmp_path: Path) -> None:
    async def test(http: httpx2.AsyncClient, one: Coordinator) -> None:
        assert (await http.head("/v1/models")).status_code == 200

    (line,) = (line for line in run(tmp_path, test) if "status" in line)
    assert (line["method"], line["route"], line["status"]) == ("HEAD", "/v1/models", 200)


@pytest.mark.parametrize("sent", ["a b", "x" * 101, "id\x0blevel=ERROR", ""])
def test_other_ids_are_replaced(tmp_path: Path, sent: str) -> None:
    async def test(http: httpx2.AsyncClient, one: Coordinator) -> None:
        answer = await http.get("/v1/models", headers={"X-Request-ID": sent})
        (given,) = answer.headers.get_list("x-request-id")
        assert given != sent
        assert len(given) == 32

    run(tmp_path, test)


@pytest.mark.parametrize("path", ["/of/no/route", "/v1/videos/none", "/v2beta/none", "/v1/farm"])
def test_errors_have_it_too(tmp_path: Path, path: str) -> None:
    async def test(http: httpx2.AsyncClient, one: Coordinator) -> None:
        for headers in ({}, {"Authorization": "Bearer nobody's"}):
            answer = await http.get(path, headers={"X-Request-ID": "e-1", **headers})
            assert answer.headers["x-request-id"] == "e-1"
            if path.startswith("/v2beta"):
                assert answer.json()["id"] == "e-1"

    lines = run(tmp_path, test)
    assert [line["request_id"] for line in lines if "status" in line] == ["e-1"] * 2
    assert [line.get("tenant") for line in lines if "status" in line][1:] == [None]


def test_serve_returns_a_clients_id_itself(tmp_path: Path) -> None:
    async def test(http: httpx2.AsyncClient, one: Coordinator) -> None:
        answer = await http.get("/v1/models", headers={"X-Request-ID": "mine"})
        assert "x-request-id" not in answer.headers

    run(tmp_path, test, behind_serve=True)


def test_an_id_does_not_make_equal_requests_differ(tmp_path: Path) -> None:
    async def test(http: httpx2.AsyncClient, one: Coordinator) -> None:
        first = await submit(http, **{"X-Request-ID": "one"})
        second = await submit(http, **{"X-Request-ID": "two"})
        assert first.json()["id"] == second.json()["id"]
        assert (await one.show(first.json()["id"])).job.request_id == "one"

    run(tmp_path, test)


def test_a_program_makes_an_id_for_each_submit_and_keeps_it_over_attempts(tmp_path: Path) -> None:
    async def all_of_it() -> None:
        async with coordinator(tmp_path) as one:
            seen: list[str] = []

            async def call(method: str, *arguments: Any) -> Any:
                caller = current_caller()
                assert caller is not None
                assert (caller.door, "@" in caller.client) == ("batch", True)
                seen.append(caller.request_id)
                return await one.called(caller, method, *arguments)

            farm = FarmProxy(call, "batch")
            view = await farm.submit(Submission(), picture_bytes())
            assert len(set(seen)) == 1  # the picture was missing at first
            assert len(seen) > 1
            assert view.job.request_id == seen[0]
            await farm.submit(Submission(), picture_bytes())
            assert len(set(seen)) == 2

    asyncio.run(all_of_it())


def test_only_the_protocols_methods_are_called(tmp_path: Path) -> None:
    async def all_of_it() -> None:
        async with coordinator(tmp_path, working=False) as one:
            for method in ("_parts", "called", "__init__", "ping"):
                with pytest.raises(AttributeError, match="no method"):
                    await one.called(Caller("python", "1"), method)
            with called_by(None):
                assert current_caller() is None

    asyncio.run(all_of_it())
