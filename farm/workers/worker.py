"""Runs a plan's tasks with the engine's stages. A worker is a plain class, without Ray."""

import gc
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch

from farm.errors import GpuMemoryError, RequestError, WorkerError
from farm.model.plan import Kind, Stage
from farm.model.request import Model, RenderRequest
from farm.model.task_order import Made, Order, Step
from farm.store import Store
from farm.workers.clip_files import ClipFiles
from farm.workers.engines import Decoder, Latents, Renderer
from farm.workers.faults import HandedOverError
from farm.workers.memory import Gpu, what_fits
from farm.workers.previews import Previewer
from svd_engine import NUMERICS, video
from svd_engine.conditioning import Conditioning

log = logging.getLogger("farm")

T = TypeVar("T")
E = TypeVar("E", Renderer, Decoder)
# A running task yields its progress once the model is loaded and after each step, and returns its
# result. If True is sent to it, it is to hand over: to save a checkpoint and end, if it can.
Running: TypeAlias = Generator[Step, bool | None, T]

ENGINES: dict[Kind, type[Renderer] | type[Decoder]] = {
    Kind.RENDERER: Renderer,
    Kind.DECODER: Decoder,
}


@dataclass(frozen=True)
class Row(Generic[E]):
    """How the tasks of a stage are run: with which engine, and by which function.

    The function takes the results that the task needs.
    """

    engine: type[E]
    function: Callable[[E, Order, Sequence[Any]], Running[Any]]

    def run(self, engine: Renderer | Decoder, order: Order, given: Sequence[Any]) -> Running[Any]:
        """Run a task; the scheduler sends a worker only tasks of its own kind."""
        assert isinstance(engine, self.engine), f"{order.task.stage} on {type(engine).__name__}"
        return self.function(engine, order, given)


class Worker:
    """Runs orders of one kind, with one model loaded at a time."""

    def __init__(self, kind: Kind, device: str, store: Store, compiled: bool = False) -> None:
        """compiled: whether to speed its networks up with `svd_engine.optimize`."""
        self._engine_class = ENGINES[kind]
        self._device, self._compiled = torch.device(device), compiled
        self._files, self._previewer = ClipFiles(store), Previewer(store)
        self._engine: Renderer | Decoder | None = None
        self._loaded: tuple[Model, str] | None = None
        self._rows: dict[Stage, Row[Renderer] | Row[Decoder]] = {
            Stage.ENCODE: Row(Renderer, self._encode),
            Stage.DENOISE: Row(Renderer, self._denoise),
            Stage.DECODE: Row(Decoder, self._decode),
            Stage.MUX: Row(Decoder, self._mux),
        }

    def run(self, order: Order, *given: Any) -> Running[Any]:
        """Run a task. Yields its progress, first when the model is loaded.

        given: the results that the task needs; None for latents that are read from the store.
        Raises RequestError, StoreError, WorkerError or GpuMemoryError; anything else is a bug.
        """
        try:
            _check_numerics(order.request)
            engine = self._load(order)
            self._make_room(engine, order)
            return (yield from self._rows[order.task.stage].run(engine, order, given))
        except torch.OutOfMemoryError:
            raise GpuMemoryError(what_fits(order, self._gpu(order))) from None
        except ValueError as error:
            raise RequestError(str(error)) from error
        finally:
            if order.low_memory:
                self._empty_cache()

    def _encode(
        self, engine: Renderer, order: Order, _given: Sequence[Any]
    ) -> Running[Conditioning]:
        yield Step(0)
        return engine.encode(order.request, self._files.picture(order.request.picture))

    def _denoise(self, engine: Renderer, order: Order, given: Sequence[Any]) -> Running[Latents]:
        request, (start, stop) = order.request, order.task.span
        yield Step(start)
        before = given[0] if given[0] is not None else self._files.checkpoint(request, start)
        work = engine.denoise(request, before, stop)
        hand_over: bool | None = None
        while True:
            try:
                done, sketch = work.send(hand_over)
            except StopIteration as end:
                latents: Latents = end.value
                break
            hand_over = yield self._previewer.step(request, done, sketch)
        self._files.save_checkpoint(request, latents, start)
        if latents.step < stop:
            self._files.finish_writing()
            raise HandedOverError(f"handed over after step {latents.step}")
        return latents

    def _decode(self, engine: Decoder, order: Order, given: Sequence[Any]) -> Running[video.Frames]:
        request, denoised = order.request, Step(order.request.params.steps)
        yield denoised
        latents = given[0] or self._files.checkpoint(request, request.params.steps)
        if order.part is None:
            return engine.decode(request, latents.latents[0], order.task.span)
        work = engine.decode_part(request, latents.latents[0], order.part)
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value
            yield denoised  # the task can be stopped here, while it waits for its gang

    def _mux(self, _engine: Decoder, order: Order, given: Sequence[Any]) -> Running[Made]:
        yield Step(order.request.params.steps)
        return self._files.save_artifacts(order, np.concatenate(given))

    def _load(self, order: Order) -> Renderer | Decoder:
        wanted = order.model, order.request.weights
        if self._loaded != wanted or self._engine is None:
            self._engine = self._loaded = None
            self._empty_cache()
            try:
                self._engine = self._engine_class(*wanted, self._device, self._compiled)
            except (ValueError, OSError) as error:
                log.error("cannot load %s: %s", order.model.name, error)
                raise WorkerError(f"cannot load {order.model.name} here: {error}") from error
            self._loaded = wanted
            if not order.low_memory and (self._compiled or self._device.type == "cuda"):
                self._engine.warm_up(order.request.params)
        return self._engine

    def _make_room(self, engine: Renderer | Decoder, order: Order) -> None:
        """Move the task's networks to the device; with low memory, move all others off it."""
        needed = engine.needs(order.task.stage)
        if order.low_memory:
            for network in engine.networks:
                if network not in needed:
                    network.to("cpu")
            self._empty_cache()
        for network in needed:
            network.to(self._device)

    def _empty_cache(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _gpu(self, order: Order) -> Gpu | None:
        """The GPU of a task that ran out of memory; None if it ran elsewhere."""
        engine = self._engine
        if self._device.type != "cuda" or engine is None:
            return None
        needed = {id(p) for network in engine.needs(order.task.stage) for p in network.parameters()}
        weights = {id(p): p.nbytes for n in engine.networks for p in n.parameters() if p.is_cuda}
        others = sum(size for key, size in weights.items() if key not in needed)
        total = torch.cuda.mem_get_info(self._device)[1]
        return Gpu(engine.bytes_needed, total, others)


def _check_numerics(request: RenderRequest) -> None:
    """Raise WorkerError if the clip's digest is for other numerics than this engine's."""
    wanted = getattr(request, "numerics", "none")  # an earlier coordinator sends none
    if wanted != NUMERICS:
        raise WorkerError(
            f"this worker's engine has numerics {NUMERICS}, the clip is to be of {wanted}: "
            "run one version on all nodes"
        )
