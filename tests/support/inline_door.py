"""The farm over HTTP in this process, without Ray: a socket, uvicorn, and a whole coordinator.

Its workers are the farm's own, each in a thread, so clips are really rendered, with a pause after
each step: jobs that go on beside a test would otherwise take the time of the server's thread. Tests
of Ray, of Ray Serve or of several processes use `tests.support.ingress_server` instead.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import farm.workers.cluster
from farm.errors import RequestError
from farm.ingress.app import make_app
from farm.model.request import Model, ModelFacts
from farm.model.task_order import Order, Step
from farm.settings import load_settings
from farm.workers.cluster import Models
from farm.workers.engines import describe
from farm.workers.worker import Worker
from tests.support.inline_farm import coordinator

START_S = STOP_S = 60.0
PAUSE_S = 0.02


class PacedWorker(Worker):
    """The farm's own worker, which rests after each step."""

    def run(self, order: Order, *given: Any) -> Generator[Step, bool | None, Any]:
        work = super().run(order, *given)
        while True:
            try:
                step = next(work)
            except StopIteration as end:
                return end.value
            time.sleep(PAUSE_S)
            yield step


@contextmanager
def inline_serving(store: Path, **settings: Any) -> Iterator[str]:
    """Serve a farm on a store, and yield its base URL. settings: as for `load_settings`."""
    settings = {"models": ("tiny", "svd"), **settings}
    started: Future[uvicorn.Server] = Future()
    with pytest.MonkeyPatch.context() as patch, _listener() as listener:
        patch.setattr(farm.workers.cluster, "describe_model", _describe)
        work = _serve(listener, store, settings, started)
        thread = threading.Thread(target=asyncio.run, args=(work,), daemon=True)
        thread.start()
        server = started.result(START_S)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(STOP_S)
            assert not thread.is_alive()


def _listener() -> socket.socket:
    """A listening socket that names its protocol.

    asyncio sends small answers without delay only on such; on others each takes 40 ms.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


async def _serve(
    listener: socket.socket, store: Path, settings: dict[str, Any], started: Future[uvicorn.Server]
) -> None:
    async with coordinator(store, finder=Models, worker=PacedWorker, **settings) as running:
        app = make_app(running, load_settings(store=str(store), **settings))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        started.set_result(server)
        await server.serve(sockets=[listener])


async def _describe(model: Model, _limit_s: float) -> ModelFacts:
    try:
        return await asyncio.to_thread(describe, model)
    except (ValueError, FileNotFoundError) as error:
        raise RequestError(str(error)) from error
