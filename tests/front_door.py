"""`python -m tests.front_door`: measure for how long attacks block the HTTP server.

A server in a process of its own receives the requests of an attack. The table shows the longest
time for which its event loop was blocked, and the longest time that `/healthz` took to answer.
"""

import asyncio
import base64
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx2
import uvicorn
from PIL import Image

from farm.model.job import JobRecord, Submission
from farm.model.request import Model, RenderRequest
from tests.engine.test_picture_heads import HEADS, SIZE
from tests.picture_memory import encoded, plain
from tests.support.asgi import PARAMS, StillFarm, bearer, still_app

MB = 60 * 2**20  # of the 64 that a body may have
BEAT_S = 0.005
STREAMS = 2000


class CheckingFarm(StillFarm):
    """A StillFarm whose `check` accepts everything."""

    async def check(self, submission: Submission, digest: str) -> tuple[JobRecord, int]:
        request = RenderRequest(picture=digest, weights=digest, dtype="float32", params=PARAMS)
        job = JobRecord(
            id="job", tenant=submission.tenant, model=Model(), request=request, created_at=1
        )
        return job, 0


def serve() -> None:
    """Serve on a free port, and print it. `/stalled` returns the longest stall of late."""
    app = still_app(CheckingFarm())
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(BEAT_S)
            longest = max(longest, time.monotonic() - before - BEAT_S)

    @app.get("/stalled")
    async def stalled() -> float:
        nonlocal longest
        former, longest = longest, 0.0
        return former

    async def run() -> None:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        beating = asyncio.create_task(beat())
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await serving
        beating.cancel()

    asyncio.run(run())


@dataclass(frozen=True)
class Stall:
    """The effect of an attack."""

    loop_s: float  # the longest time that the event loop was blocked
    health_s: float  # the longest time that /healthz took to answer
    took_s: float  # until the last response to the attack
    statuses: list[int]


@dataclass(frozen=True)
class Door:
    """A client of the server under attack."""

    url: str

    def stall(self, bodies: list[tuple[str, bytes]]) -> Stall:
        """Send all bodies at once, each as (content type, body)."""
        with httpx2.Client(base_url=self.url, headers=bearer("sesame"), timeout=300) as http:
            http.get("/stalled").raise_for_status()
            done = threading.Event()
            with ThreadPoolExecutor(1 + len(bodies)) as threads:
                health = threads.submit(self.worst_health, done)
                began = time.monotonic()
                answers = list(threads.map(self._post, bodies))
                took = time.monotonic() - began
                done.set()
            return Stall(http.get("/stalled").json(), health.result(), took, answers)

    def _post(self, body: tuple[str, bytes]) -> int:
        kind, content = body
        headers = {"Content-Type": kind, **bearer("sesame")}
        url = f"{self.url}/v1/videos/check"
        return httpx2.post(url, content=content, headers=headers, timeout=300).status_code

    def worst_health(self, done: threading.Event) -> float:
        worst = 0.0
        with httpx2.Client(base_url=self.url, timeout=300) as http:
            while not done.wait(0.01):
                began = time.monotonic()
                http.get("/healthz").raise_for_status()
                worst = max(worst, time.monotonic() - began)
        return worst


@contextmanager
def front_door() -> Iterator[Door]:
    """Run a server in front of a StillFarm, in a process of its own."""
    command = [sys.executable, "-m", "tests.front_door", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield Door(f"http://127.0.0.1:{int(server.stdout.readline())}")
        finally:
            server.terminate()


def stored_png(width: int, height: int) -> bytes:
    """An uncompressed PNG, which has as many bytes as values."""
    return encoded(Image.new("RGB", (width, height)), "PNG", compress_level=0)


def data_url(picture: bytes) -> tuple[str, bytes]:
    """A JSON body that contains a picture as a data URL."""
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    return "application/json", json.dumps({"input_reference": url, "model": "tiny"}).encode()


def png(data: bytes) -> list[tuple[str, bytes]]:
    """A list of one form body that contains a file."""
    head = b'--cut\r\nContent-Disposition: form-data; name="input_reference"; filename="a"\r\n\r\n'
    model = b'\r\n--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--cut--\r\n'
    return [("multipart/form-data; boundary=cut", head + data + model)]


LARGEST = (9420, 6900)
ATTACKS: dict[str, Callable[[], list[tuple[str, bytes]]]] = {
    "four JSON bodies of 60 MB, each a data URL": lambda: (
        [data_url(stored_png(4096, MB // 4 // 4096))] * 4
    ),
    "a PNG of 65 MP": lambda: png(encoded(plain("RGBA", *LARGEST), "PNG", compress_level=1)),
    "a PNG of 60 MB": lambda: png(stored_png(4096, MB // 3 // 4096 - 1)),
    **{
        f"{SIZE // 10**6} MB of {name}": lambda make=make: png(make())  # type: ignore[misc]
        for name, make in HEADS.items()
    },
}


def hold_streams(door: Door, count: int) -> tuple[int, float, float]:
    """Open many event streams of one caller; returns how many stay open, and both times in s."""
    request = (
        f"GET /v1/videos/acme/events HTTP/1.1\r\nHost: {door.url[7:]}\r\n"
        "Authorization: Bearer sesame\r\n\r\n"
    )
    host, _, port = door.url[7:].partition(":")
    done = threading.Event()
    with ExitStack() as held, ThreadPoolExecutor(1) as threads:
        health = threads.submit(door.worst_health, done)
        streams = []
        for _ in range(count):
            streams.append(held.enter_context(socket.create_connection((host, int(port)), 60)))
            streams[-1].sendall(request.encode())
        heads = [stream.recv(4096) for stream in streams]
        with httpx2.Client(base_url=door.url, timeout=60) as http:
            for path, key in (("/healthz", "sesame"), ("/v1/videos/acme", "sesame")):
                http.get(path, headers=bearer(key)).raise_for_status()
            http.get("/v1/videos/other", headers=bearer("open")).raise_for_status()
            stalled = http.get("/stalled", headers=bearer("sesame")).json()
        done.set()
        assert all(head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 ")) for head in heads)
        return sum(head.startswith(b"HTTP/1.1 200 ") for head in heads), stalled, health.result()


def main() -> None:
    print("| attack | event loop, s | /healthz, s | answered after, s | statuses |")
    print("| --- | --- | --- | --- | --- |")
    with front_door() as door:
        for name, make in ATTACKS.items():
            stalled = door.stall(make())
            times = (f"{each:.2f}" for each in (stalled.loop_s, stalled.health_s, stalled.took_s))
            print(f"| {name} | {' | '.join(times)} | {stalled.statuses} |", flush=True)
        held, loop, health = hold_streams(door, STREAMS)
        name = f"{STREAMS} event streams of one caller"
        print(f"| {name} | {loop:.2f} | {health:.2f} | | {held} held, others 503 |")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main()
