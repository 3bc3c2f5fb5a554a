"""The scripts of the pods: when one is ready, and how its workers are drained."""

import asyncio
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest

from farm.client.farm import Farm
from farm.coordinator.coordinator import Coordinator
from tests.deploy.rendered import FOLDER
from tests.support.farm_jobs import picture_bytes, submission
from tests.support.inline_farm import InlineWorkers, coordinator, inline, parts

__all__ = ["inline"]
READY, DRAIN = (FOLDER / f"base/scripts/{name}.py" for name in ("ready", "drain"))


class _Server(HTTPServer):
    status, body = 200, b""


class _Answer(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - its name in http.server
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def probe(server: _Server, status: int, body: bytes) -> tuple[int, str]:
    server.status, server.body = status, body
    url = f"http://127.0.0.1:{server.server_port}/readyz"
    done = subprocess.run([sys.executable, READY, url], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_a_pod_is_ready_while_its_farm_owns_the_store(server: _Server) -> None:
    assert probe(server, 200, b'{"status": "ok", "workers": 2}') == (0, "")
    assert probe(server, 503, b'{"status": "no worker yet", "workers": 0}') == (0, "")
    status, why = probe(server, 503, b'{"status": "no store", "why": "another farm owns it"}')
    assert status == 1
    assert "another farm owns it" in why
    assert probe(server, 503, b'{"status": "no coordinator"}')[0] == 1


def test_a_pod_whose_server_does_not_answer_is_not_ready(server: _Server) -> None:
    assert "not the farm" in probe(server, 404, b"no such route")[1]
    server.server_close()
    status, why = probe(server, 200, b"")
    assert status == 1
    assert "no answer" in why


def test_the_workers_of_a_pod_are_drained_and_no_others(tmp_path: Path, inline: Any) -> None:
    async def test() -> None:
        async with coordinator(tmp_path) as running:
            assert await drained(running, "elsewhere", 5)
            assert await states(running) == {"idle"}
            assert await drained(running, "here", 5)
            assert await states(running) == {"drained"}

    asyncio.run(test())


def test_a_task_under_way_is_waited_for_until_time_is_up(tmp_path: Path, inline: Any) -> None:
    async def test() -> None:
        async with coordinator(tmp_path) as running:
            workers = cast("InlineWorkers", (await parts(running)).rendering.workers)
            workers.most_steps = 0  # its renderer hangs
            asked = submission(Path("nano"), width=32, height=16, num_frames=2)
            await running.submit(asked, picture_bytes())
            while "busy" not in await states(running):
                await asyncio.sleep(0.01)
            assert not await drained(running, "here", 0)
            assert await states(running) == {"draining", "drained"}

    asyncio.run(test())


async def drained(running: Coordinator, address: str, limit_s: float) -> bool:
    drain = runpy.run_path(str(DRAIN))["drain"]
    farm = Farm(running, asyncio.get_running_loop())
    done: bool = await asyncio.to_thread(drain, farm, address, limit_s)
    return done


async def states(running: Coordinator) -> set[str]:
    return {worker["state"] for worker in (await running.status())["workers"].values()}


def test_without_a_farm_the_hook_says_so_and_ends(tmp_path: Path) -> None:
    there = {**os.environ, "FARM_STORE": str(tmp_path), "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, DRAIN, "10.0.0.1", "5"],
        env=there,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "not drained: no Ray cluster answers at 127.0.0.1:1" in done.stderr
