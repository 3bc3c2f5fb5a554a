"""A whole coordinator in this process, without Ray: its workers are threads.

Only the networks are replaced by quick ones; everything that uses the store is the farm's own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from farm.background import Background
from farm.coordinator.coordinator import Coordinator
from farm.coordinator.parts import Parts
from farm.model.plan import Kind, Stage
from farm.model.request import Model, ModelFacts, RenderRequest
from farm.model.task_order import Order, Ref, Step
from farm.scheduling.placement import Node, Slot
from farm.settings import Settings, load_settings
from farm.store import Store, identify, open_store
from farm.tracing import UNTRACED, Tracer
from farm.workers import worker as workers
from farm.workers.engines import Decoder, Latents, Renderer
from farm.workers.in_process import InProcessWorkers
from farm.workers.previews import Previewer
from farm.workers.protocol import WorkerReport
from farm.workers.runtime import ModelFinder
from svd_engine import video
from svd_engine.conditioning import Conditioning
from svd_engine.params import RenderDefaults
from tests.model.test_plan import B
from tests.support.receiver import SECRET
from tests.support.recorded import Recorded

DEFAULTS = RenderDefaults(width=32, height=16, num_frames=2)


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
    ) -> Generator[tuple[int, Callable[[], Any]], bool | None, Latents]:
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
    """The farm's own worker, with networks that take no time, and without previews."""

    def __init__(self, kind: Kind, device: str, store: Store) -> None:
        super().__init__(kind, device, store)
        self._previewer = NoPreviews(store)

    def run(self, order: Order, *given: Any) -> Generator[Step, bool | None, Any]:
        result = yield from super().run(order, *given)
        self._files.finish_writing()  # before a test changes the store
        return result

    def _load(self, order: Order) -> Renderer | Decoder:
        renderer = self._engine_class is Renderer
        return QuickRenderer() if renderer else QuickDecoder()


class InlineWorkers(InProcessWorkers):
    """Workers that can be made to hang."""

    most_steps = 1000  # a renderer hangs at tasks that go beyond this step

    async def run(
        self,
        name: str,
        order: Order,
        inputs: Sequence[Ref | None],
        on_step: Callable[[Step], None],
    ) -> tuple[Ref, float]:
        if order.task.stage is Stage.DENOISE and order.task.span[1] > self.most_steps:
            await asyncio.Event().wait()
        return await super().run(name, order, inputs, on_step)


class KnownModel:
    """A stand-in for the process that reads the models' weights."""

    def __init__(self, *_: Any) -> None: ...

    async def facts(self, model: Model, tenant: str = "") -> ModelFacts:
        return ModelFacts(digest=B, defaults=DEFAULTS)


class InlineRuntime:
    """This process instead of Ray. It never ends: `failures` says why it should have."""

    def __init__(
        self,
        working: bool = True,
        models: Callable[[Background, float], ModelFinder] = KnownModel,
        worker: Callable[[Kind, str, Store], workers.Worker] = QuickWorker,
        tracer: Tracer = UNTRACED,
    ) -> None:
        """working: whether there are a renderer and a decoder, made by `worker`."""
        self._tracer = tracer
        self.failures: list[str] = []
        self.recorded = Recorded()
        self.models, self._worker = models, worker
        self._nodes = [Node("here", cpus=1.0)] if working else []

    def owner(self) -> tuple[str, str]:
        # With Ray's id of the actor, a restarted coordinator gets the store at once.
        return "coordinator", ""

    def watch_node(self) -> None: ...

    def end_process(self, why: str) -> None:
        self.failures.append(why)

    def tracer(self) -> Tracer:
        return self._tracer

    def meter(self) -> Recorded:
        return self.recorded

    def workers(
        self,
        store: Store,
        background: Background,
        report: Callable[[WorkerReport], None],
        settings: Settings,
    ) -> InlineWorkers:
        def make(slot: Slot) -> workers.Worker:
            return self._worker(slot.kind, "cpu", store)

        return InlineWorkers(make, report, self._nodes, self._tracer)


def replace_video(patch: pytest.MonkeyPatch) -> None:
    """Leave out the encoding of videos, which takes longer than all the rest."""
    patch.setattr(video, "encode_video", lambda *_: b"a video")


@pytest.fixture(scope="module")
def inline() -> Any:
    """Videos are not encoded in a module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        replace_video(patch)
        yield


@asynccontextmanager
async def coordinator(
    folder: Path,
    working: bool = True,
    finder: Callable[[Background, float], ModelFinder] = KnownModel,
    worker: Callable[[Kind, str, Store], workers.Worker] = QuickWorker,
    tracer: Tracer = UNTRACED,
    **settings: Any,
) -> AsyncIterator[Coordinator]:
    """A coordinator that has started, and in which nothing may fail unnoticed.

    working: whether it has a renderer and a decoder, which `worker` makes.
    """
    settings = {"webhook_secret": SECRET, "segment_steps": 2, **settings}
    store = identify(open_store(str(folder)))
    runtime = InlineRuntime(working, finder, worker, tracer)
    running = Coordinator(load_settings(store=str(folder), **settings), "none", store, runtime)
    await running.ready()
    try:
        while working and len((await parts(running)).rendering.scheduler.workers) < len(Kind):
            await asyncio.sleep(0.01)
        yield running
    finally:
        await running._background.cancel_all()
    assert not runtime.failures


async def parts(running: Coordinator) -> Parts:
    return await running._parts()


async def hang_after(running: Coordinator, steps: int) -> None:
    """Let renderers hang at tasks that go beyond step `steps`."""
    workers = (await running._parts()).rendering.workers
    assert isinstance(workers, InlineWorkers)
    workers.most_steps = steps
