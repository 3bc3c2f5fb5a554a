"""No caller can lock out another, and every error has the API's own shape."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.ingress.middleware.concurrency_limits import REQUESTS, STREAMS
from farm.ingress.middleware.fair_slots import FullError, Slots
from tests.support.asgi import StillFarm, Stream, client, still_app

EVENTS = {"sesame": "/v1/videos/acme/events", "open": "/v1/videos/other/events"}
OPENAI, STABILITY = {"error"}, {"id", "name", "errors"}


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30), st.booleans()), max_size=60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_slots_are_never_over_and_whoever_comes_finds_some(
    steps: list[tuple[str, int, bool]],
) -> None:
    most = 100
    slots, held = Slots(most), list[tuple[str, int, Any]]()
    for caller, count, takes in steps:
        if takes:
            holding = slots.hold(caller, count)
            own = sum(n for name, n, _ in held if name == caller)
            free = most - sum(n for _, n, _ in held)
            try:
                holding.__enter__()
            except FullError:
                assert own + count > free - count
            else:
                held.append((caller, count, holding))
        elif held:
            held.pop()[2].__exit__(None, None, None)
        assert sum(n for _, n, _ in held) < most
    with slots.hold("one that comes"):  # whatever three others do
        pass


def test_event_streams_of_one_key_leave_all_else_as_it_is() -> None:
    async def test() -> None:
        app = still_app()
        streams = [await Stream().open(app, EVENTS["sesame"], "sesame") for _ in range(STREAMS)]
        statuses = [stream.status for stream in streams]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) == STREAMS // 2
        refused = streams[statuses.index(503)]
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        async with client(app) as http, client(app, "open") as other:
            assert (await http.get("/v1/videos")).status_code == 200
            assert (await other.get("/v1/videos")).status_code == 200
            assert (await other.get("/healthz")).json() == {"status": "ok"}
            assert (await other.get("/readyz")).status_code == 200
        there = await Stream().open(app, EVENTS["open"], "open")
        assert there.status == 200
        await asyncio.gather(*(stream.close() for stream in streams))
        again = await Stream().open(app, EVENTS["sesame"], "sesame")  # none is lost
        assert again.status == 200
        await asyncio.gather(again.close(), there.close())

    run(test)


def test_requests_that_wait_leave_health_and_other_keys_as_they_are() -> None:
    async def test() -> None:
        farm = StillFarm()
        farm.answers.clear()
        app = still_app(farm)
        async with client(app) as http, client(app, "open") as other, client(app, "") as nobody:
            waiting = [asyncio.create_task(http.get("/v1/videos")) for _ in range(REQUESTS)]
            while not all(task.done() for task in waiting[REQUESTS // 2 :]):
                await asyncio.sleep(0.01)
            refused = [task.result() for task in waiting if task.done()]
            assert len(refused) == REQUESTS // 2
            assert {answer.status_code for answer in refused} == {503}
            assert {answer.headers["retry-after"] for answer in refused} == {"5"}
            for path in ("/healthz", "/readyz"):
                assert (await nobody.get(path)).status_code == 200
            assert (await other.get("/v1/models")).status_code == 200
            stream = await Stream().open(app, EVENTS["sesame"], "sesame")
            assert stream.status == 200
            await stream.close()
            farm.answers.set()
            await asyncio.gather(*waiting)
            assert (await http.get("/v1/videos")).status_code == 200

    run(test)


def test_bodies_of_one_key_leave_room_for_others() -> None:
    async def test() -> None:
        app, go_on = still_app(max_body=2**20), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"{"
            await go_on.wait()

        kind = {"Content-Type": "application/json"}
        async with client(app) as http, client(app, "open") as other:
            waiting = [
                asyncio.create_task(http.post("/v1/videos", content=slowly(), headers=kind))
                for _ in range(16)
            ]
            while not all(task.done() for task in waiting[8:]):
                await asyncio.sleep(0.01)
            refused = [task.result() for task in waiting if task.done()]
            assert [answer.status_code for answer in refused] == [503] * 8
            assert (await other.post("/v1/videos", json={})).status_code == 400
            assert (await http.get("/v1/videos")).status_code == 200
            go_on.set()
            answers = await asyncio.gather(*waiting[:8])
            assert {answer.status_code for answer in answers} == {400}  # it is no JSON

    run(test)


@pytest.mark.parametrize(
    ("method", "path", "status", "shape"),
    [
        ("GET", "/nowhere", 404, OPENAI),
        ("GET", "/v1/nowhere", 404, OPENAI),
        ("GET", "/v2beta", 404, STABILITY),
        ("GET", "/v2beta/nowhere", 404, STABILITY),
        ("GET", "/v2beta/image-to-video/result/" + "0" * 64, 404, STABILITY),
        ("PUT", "/v1/videos", 405, OPENAI),
        ("PATCH", "/v1/videos/acme", 405, OPENAI),
        ("DELETE", "/", 405, OPENAI),
        ("POST", "/healthz", 405, OPENAI),
        ("DELETE", "/v2beta/image-to-video", 405, STABILITY),
        ("OPTIONS", "/v2beta/image-to-video", 405, STABILITY),
        ("POST", "/v1/videos/acme/cancel", 500, OPENAI),
        ("POST", "/v1/videos/acme/pause", 500, OPENAI),
        ("GET", "/v1/videos/x%00y", 400, OPENAI),
        ("GET", "/page/nothing", 404, OPENAI),
        ("POST", "/v1/videos", 415, OPENAI),
        ("POST", "/v2beta/image-to-video", 400, STABILITY),
    ],
)
def test_every_error_has_the_apis_shape(
    method: str, path: str, status: int, shape: set[str]
) -> None:
    async def test() -> None:
        async with client(still_app()) as http:
            for headers in ({}, {"X-Long": "x" * (2**20 + 1)}):
                answer = await http.request(method, path, headers=headers)
                assert answer.status_code == (431 if headers else status), answer.text
                assert answer.headers["content-type"] == "application/json"
                body = answer.json()
                assert body.keys() == shape
                assert body["error"]["message"] if shape is OPENAI else body["errors"][0]
                if status == 405 and not headers:
                    assert answer.headers["allow"]

    run(test)


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/docs", "/openapi.json", "/healthz"])
@pytest.mark.parametrize("key", ["", "sesame"])
def test_every_answer_has_a_policy(path: str, key: str) -> None:
    async def test() -> None:
        async with client(still_app(cors_origins=("https://friend.example",)), key) as http:
            wish = {"Origin": "https://friend.example", "Access-Control-Request-Method": "GET"}
            answers = [
                await http.get(path),
                await http.get(f"{path}nowhere"),
                await http.put(path),
                await http.options(path, headers=wish),
                await http.get("/v1/videos"),
                await http.post("/v1/videos/acme/cancel"),
                await http.get(path, headers={"X-Long": "x" * (2**20 + 1)}),
            ]
            for answer in answers:
                assert answer.headers["x-content-type-options"] == "nosniff"
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'none'; ")
                assert policy.endswith("frame-ancestors 'none'")

    run(test)


def test_a_broken_stream_is_cut_off_and_gives_its_slot_back() -> None:
    class Broken(StillFarm):
        async def events(self, job: str, after: int) -> Any:
            raise ZeroDivisionError(job)

    async def test() -> None:
        app = still_app(Broken())
        for _ in range(STREAMS // 2 + 1):
            with pytest.raises(ZeroDivisionError):
                async with client(app) as http:
                    await http.get(EVENTS["sesame"])

    run(test)


def test_readiness_is_asked_once_for_all() -> None:
    class Hung(StillFarm):
        asked = 0

        async def status(self) -> Any:
            self.asked += 1
            await self.news.wait()

    async def test() -> None:
        farm = Hung()
        async with client(still_app(farm), "") as http:
            answers = await asyncio.gather(*(http.get("/readyz") for _ in range(200)))
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].json()["why"] == "no answer within 5 s"
        assert farm.asked == 1

    run(test)
