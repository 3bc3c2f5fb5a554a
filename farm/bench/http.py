"""Measurements of a farm over HTTP, beside an empty handler on the same Ray Serve and run."""

import asyncio
import os
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
from ray import serve

CONNECTIONS = 32
POLLS = 3000
SUBMITS = 200  # one after the other
SUBMITS_AT_ONCE = 1000
ROUNDS = 3
PARTS = {  # the parts of a farm, by Ray's names for their processes
    "Proxy": "Serve's proxy",
    "ServeReplica:farm": "two replicas of the HTTP server",
    "Coordinator": "the coordinator",
    "Host": "two idle workers",
}
FORM = {"size": "64x48", "num_frames": "2", "num_inference_steps": "1", "model": "tiny"}


class Empty:
    """A handler that does nothing, to measure Serve itself."""

    async def __call__(self) -> str:
        """Answer with an empty JSON object."""
        return "{}"


@contextmanager
def _served(port: int) -> Iterator[str]:
    """Serve the farm at `/` and the empty handler at `/empty`, with two replicas each."""
    import ray

    with tempfile.TemporaryDirectory() as store:
        # For the replicas, which Ray starts with this environment.
        os.environ |= {"FARM_STORE": store, "FARM_MAX_JOBS": "100000"}
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            from farm.ingress.serve_app import REPLICAS, app

            serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
            serve.run(app({}), name="farm", route_prefix="/")
            empty = serve.deployment(num_replicas=REPLICAS, ray_actor_options={"num_cpus": 0})
            serve.run(empty(Empty).bind(), name="empty", route_prefix="/empty")
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()


async def _rate(calls: int, call: Callable[[int], Awaitable[float]]) -> tuple[float, list[float]]:
    """Make calls from CONNECTIONS tasks; returns calls per second and the sorted durations in s."""
    numbers, times = iter(range(calls)), []

    async def caller() -> None:
        for number in numbers:
            times.append(await call(number))  # noqa: PERF401 (others append between two calls)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CONNECTIONS)))
    return calls / (time.perf_counter() - began), sorted(times)


class _Client:
    """Requests to a farm, each with its duration in seconds."""

    def __init__(self, session: aiohttp.ClientSession, picture: bytes) -> None:
        self._session, self._picture = session, picture

    async def get(self, path: str) -> float:
        began = time.perf_counter()
        async with self._session.get(path) as answer:
            await answer.read()
            assert answer.status == 200, await answer.text()
        return time.perf_counter() - began

    async def submit(self, seed: int) -> float:
        seconds, _ = await self._submit(seed)
        return seconds

    async def completed_video(self) -> str:
        """Submit a job, and return its id once it is completed."""
        _, video = await self._submit(0)
        while (await self._json(f"/v1/videos/{video}"))["status"] != "completed":
            await asyncio.sleep(0.5)
        return video

    async def drain(self) -> None:
        """Give the workers no more tasks."""
        for worker in (await self._json("/v1/farm"))["workers"]:
            await self._session.post(f"/v1/farm/workers/{worker}/drain")

    async def _submit(self, seed: int) -> tuple[float, str]:
        form = aiohttp.FormData({**FORM, "seed": str(seed)})
        form.add_field("input_reference", self._picture, filename="a.png")
        began = time.perf_counter()
        async with self._session.post("/v1/videos", data=form) as answer:
            assert answer.status == 200, await answer.text()
            video: str = (await answer.json())["id"]
        return time.perf_counter() - began, video

    async def _json(self, path: str) -> dict[str, Any]:
        async with self._session.get(path) as answer:
            document: dict[str, Any] = await answer.json()
            return document


async def _measure(url: str, picture: bytes) -> None:
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        client = _Client(session, picture)
        video = await client.completed_video()  # warms up: reads the model
        await _measure_polls(client, video)
        await _measure_submits(client)


async def _measure_polls(client: _Client, video: str) -> None:
    ratios = []
    for _ in range(ROUNDS):  # alternate, because the machine's speed drifts
        empty, _ = await _rate(POLLS, lambda _: client.get("/empty"))
        polls, times = await _rate(POLLS, lambda _: client.get(f"/v1/videos/{video}"))
        ratios.append(polls / empty)
        print(
            f"status polls: {polls:.0f} a second, p99 {_p99(times) * 1e3:.0f} ms; an empty "
            f"handler: {empty:.0f} a second; ratio {polls / empty:.2f}"
        )
    print(f"polls over an empty handler: {statistics.median(ratios):.2f}")


async def _measure_submits(client: _Client) -> None:
    times = sorted([await client.submit(number) for number in range(1, SUBMITS + 1)])
    print(
        f"submit, one by one, while the farm renders: p50 {times[SUBMITS // 2] * 1e3:.0f} ms, "
        f"p99 {_p99(times) * 1e3:.0f} ms"
    )
    first = 10_000  # the seeds must not repeat those above
    rate, times = await _rate(SUBMITS_AT_ONCE, lambda number: client.submit(first + number))
    print(
        f"submit, {CONNECTIONS} at once, while the farm renders: {rate:.0f} a second, "
        f"p99 {_p99(times) * 1e3:.0f} ms"
    )
    await client.drain()
    first += SUBMITS_AT_ONCE
    before = _core_seconds()
    rate, times = await _rate(SUBMITS_AT_ONCE, lambda number: client.submit(first + number))
    after = _core_seconds()
    print(f"... while no worker works: {rate:.0f} a second; CPU time of each submit:")
    for name, seconds in sorted(after.items(), key=lambda each: -each[1]):
        print(f"  {(seconds - before[name]) / SUBMITS_AT_ONCE * 1e3:5.1f} ms {name}")


def _core_seconds() -> Counter[str]:
    """The CPU seconds that this process and its descendants have used, by their part in PARTS."""
    import psutil  # installed with the extra `test`

    own = psutil.Process()
    used = Counter({"this client": sum(own.cpu_times()[:2])})
    for process in own.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            command = process.cmdline()[:1] or [""]
            name = next((what for key, what in PARTS.items() if key in command[0]), "Ray's own")
            used[name] += sum(process.cpu_times()[:2])
    return used


def _p99(times: list[float]) -> float:
    return times[int(0.99 * (len(times) - 1))]


def bench_http(picture: bytes) -> None:
    """Measure, and print the results."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _served(port) as url:
        asyncio.run(_measure(url, picture))
