"""A whole coordinator in this process, without Ray: its workers are threads, its networks quick.

Everything that reads or writes the store is the farm's own; only what computes is not.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import farm.coordinator.coordinator
import farm.coordinator.maintenance
from farm.coordinator.coordinator import Coordinator
from farm.errors import MissingError, RequestError, StoreError
from farm.model.plan import Kind, Stage
from farm.model.request import Model, ModelFacts, RenderRequest
from farm.model.task_order import Order, Step
from farm.scheduling.state import Fault
from farm.settings import load_settings
from farm.store import Store, identify, open_store
from farm.workers import worker as workers
from farm.workers.engines import Decoder, Latents, Renderer
from farm.workers.pool import TaskError
from farm.workers.previews import Previewer
from svd_engine import video
from svd_engine.conditioning import Conditioning
from svd_engine.params import RenderDefaults
from tests.model.test_plan import B
from tests.support.receiver import SECRET

DEFAULTS = RenderDefaults(width=32, height=16, num_frames=2)
FAULTS = ((RequestError, Fault.REQUEST), (MissingError, Fault.STALE), (StoreError, Fault.STORE))


class QuickRenderer(Renderer):
    def __init__(self) -> None:
        self.networks = []

    def needs(self, stage: Stage) -> list[Any]:
        return []

    def encode(self, request: RenderRequest, picture: bytes) -> Conditioning:
        value = torch.full((1,), float(len(picture) + request.params.seed))
        return Conditioning(value, value.clone(), value.clone())

    def denoise(
        self, request: RenderRequest, given: Conditioning | Latents, stop: int
    ) -> Generator[tuple[int, Callable[[], Any]], None, Latents]:
        latents = given.latents if isinstance(given, Latents) else torch.zeros(1, 2, 1, 1, 1)
        conditioning = given.conditioning if isinstance(given, Latents) else given
        yield stop, lambda: None
        return Latents(stop, latents + conditioning.embedding, conditioning)


class QuickDecoder(Decoder):
    def __init__(self) -> None:
        self.networks = []

    def needs(self, stage: Stage) -> list[Any]:
        return []

    def decode(self, request: RenderRequest, latents: Tensor, frames: tuple[int, int]) -> Any:
        level = int(latents.sum()) % 256
        height, width = request.params.height or 8, request.params.width or 8
        return np.full((frames[1] - frames[0], height, width, 3), level, np.uint8)


class NoPreviews(Previewer):
    def step(self, request: RenderRequest, done: int, sketch: Any) -> Step:
        return Step(done)


class QuickWorker(workers.Worker):
    """The farm's own, with networks that take no time, and no previews."""

    def __init__(self, kind: Kind, device: str, store: str) -> None:
        super().__init__(kind, device, store)
        self._previewer = NoPreviews(store)

    def _load(self, order: Order) -> Renderer | Decoder:
        renderer = self._engine_class is Renderer
        return QuickRenderer() if renderer else QuickDecoder()


class InlinePool:
    """Threads in the place of actors."""

    most_steps = 1000  # beyond which a renderer does not go, until its coordinator ends

    def __init__(
        self,
        store: Store,
        _engine: str,
        _compiled: bool,
        _load_s: float,
        _joined: Any,
        left: Any,
    ) -> None:
        self._left = left
        self.slots: dict[str, Any] = {}
        self.troubles: dict[str, str] = {}
        self.places: dict[str, str] = {}
        self._workers = {
            "renderer-0": QuickWorker(Kind.RENDERER, "cpu", store),
            "decoder-0": QuickWorker(Kind.DECODER, "cpu", store),
        }

    def keep(self, _slots: Any) -> list[str]:
        return []

    def stop(self, name: str, attempt: str) -> None: ...

    def restart(self, name: str) -> None: ...

    async def run(
        self, name: str, order: Order, given: Sequence[Any], _on_step: Any
    ) -> tuple[Any, float]:
        if order.task.stage is Stage.DENOISE and order.task.span[1] > self.most_steps:
            await asyncio.Event().wait()
        try:
            result = await asyncio.to_thread(self._run, name, order, given)
        except Exception as error:
            fault = next((f for kind, f in FAULTS if isinstance(error, kind)), Fault.ERROR)
            raise TaskError(fault, str(error) or repr(error), name) from error
        return _Ref(result), 0.01

    def _run(self, name: str, order: Order, given: Sequence[Any]) -> Any:
        values = [ref.value if isinstance(ref, _Ref) else ref for ref in given]
        work = self._workers[name].run(order, *values)
        while True:
            try:
                next(work)
            except StopIteration as end:
                self._workers[name]._files.finish_writing()  # before a test changes the store
                return end.value


class _Ref:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(0).__await__()
        return self.value


class KnownModel:
    """In the place of a process that looks at weights."""

    def __init__(self, *_: Any) -> None: ...

    async def facts(self, _model: Model, _tenant: str = "") -> ModelFacts:
        return ModelFacts(digest=B, defaults=DEFAULTS)


def replace_ray(patch: pytest.MonkeyPatch) -> None:
    """Replace what stands between a coordinator and Ray."""
    patch.setattr(farm.coordinator.coordinator, "Pool", InlinePool)
    patch.setattr(farm.coordinator.coordinator, "Models", KnownModel)
    patch.setattr(
        farm.coordinator.coordinator, "os", SimpleNamespace(getpid=lambda: 1, _exit=print)
    )
    patch.setattr(farm.coordinator.coordinator, "lifeline", lambda _: None)
    # As Ray names it, so that one that is started anew has the store at once.
    patch.setattr(farm.coordinator.coordinator, "own_actor", lambda: ("coordinator", ""))
    patch.setattr(farm.coordinator.maintenance, "live_nodes", list)
    patch.setattr(video, "encode_video", lambda *_: b"a video")


@pytest.fixture(scope="module")
def inline() -> Any:
    """Ray is replaced for a module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        replace_ray(patch)
        yield


@asynccontextmanager
async def coordinator(
    folder: Path, working: bool = True, **settings: Any
) -> AsyncIterator[Coordinator]:
    """One that has begun. working: with a renderer and a decoder."""
    settings = {"webhook_secret": SECRET, "segment_steps": 2, **settings}
    store = identify(open_store(str(folder)))
    one = Coordinator(load_settings(store=str(folder), **settings), "farm.workers.worker", store)
    await one.ready()
    if working:
        one._dispatcher.joined("renderer-0", Kind.RENDERER, None)
        one._dispatcher.joined("decoder-0", Kind.DECODER, None)
    try:
        yield one
    finally:
        tasks = list(one._background._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        one._background._threads.shutdown(wait=False)
