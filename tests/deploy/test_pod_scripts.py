"""The scripts of the pods: when one is ready, and how its workers are drained."""

import asyncio
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
import uvicorn

from farm.client.farm import Farm
from farm.coordinator.coordinator import Coordinator
from farm.errors import FarmError, LeaseError, WorkerError
from tests.deploy.rendered import FOLDER
from tests.support.asgi import StillFarm, still_app
from tests.support.farm_jobs import picture_bytes, submission
from tests.support.inline_farm import InlineWorkers, coordinator, inline, parts

__all__ = ["inline"]
READY, DRAIN = (FOLDER / f"base/scripts/{name}.py" for name in ("ready", "drain"))


class OneFarm(StillFarm):
    """A farm with the given number of workers, or none that can be asked."""

    def __init__(self, workers: int, error: FarmError | None = None) -> None:
        self._workers, self._error = workers, error

    async def status(self) -> dict[str, Any]:
        if self._error:
            raise self._error
        return {"workers": {f"renderer-{n}": {"place": "here:1"} for n in range(self._workers)}}


@contextmanager
def served(farm: OneFarm) -> Iterator[str]:
    """The farm's HTTP server on a farm."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(still_app(farm), log_level="error"))
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def probe(url: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, READY, url], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("farm", "complaint"),
    [
        (OneFarm(2), ""),
        (OneFarm(0), ""),  # it takes jobs, and serves clips that are done
        (OneFarm(0, LeaseError("another farm owns the store")), "no store"),
        (OneFarm(0, WorkerError("it hangs")), "no coordinator"),
    ],
)
def test_a_pod_is_ready_while_its_farm_owns_the_store(farm: OneFarm, complaint: str) -> None:
    with served(farm) as url:
        status, why = probe(f"{url}/readyz")
    assert status == bool(complaint)
    assert complaint in why


def test_a_pod_whose_server_is_absent_or_another_is_not_ready() -> None:
    with served(OneFarm(1)) as url:
        status, why = probe(f"{url}/nothing")
        assert status == 1
        assert "not the farm" in why
    status, why = probe(f"{url}/readyz")
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
