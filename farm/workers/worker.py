"""Plain classes that run a plan's tasks with the engine's stages: the bridge to `svd_engine`."""

import gc
import hashlib
import logging
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from farm.errors import (
    GpuMemoryError,
    MissingError,
    RequestError,
    StoreError,
    UnreadableError,
    WorkerError,
)
from farm.model.plan import Kind, Stage
from farm.model.request import Model, RenderRequest, digest_of
from farm.model.task_order import Made, Order, Step
from farm.store import Store
from farm.store.keys import artifact_keys, checkpoint_key, picture_key
from farm.store.quarantine import move_aside
from farm.workers.engines import Decoder, Latents, Renderer
from farm.workers.memory import Gpu, what_fits
from farm.workers.previews import Previewer
from svd_engine import NUMERICS, video
from svd_engine.conditioning import Conditioning

log = logging.getLogger("farm")


class Worker:
    """Runs orders of one kind, with one model loaded at a time."""

    def __init__(self, kind: Kind, device: str, store: Store, compiled: bool = False) -> None:
        """compiled: whether its networks run by `svd_engine.optimize`."""
        self._engine_class = Renderer if kind is Kind.RENDERER else Decoder
        self._device, self._compiled = torch.device(device), compiled
        self._store = store
        self._previewer = Previewer(self._store)
        self._engine: Renderer | Decoder | None = None
        self._loaded: tuple[Model, str] | None = None
        self._saver = ThreadPoolExecutor(1)  # a checkpoint is written while the next step runs
        self._saving: Future[None] | None = None

    def run(self, order: Order, *given: Any) -> Generator[Step, None, Any]:
        """Yield how far it is after each step, where there are any; the result.

        given: results of the tasks needed, None where it is to be taken from the store.
        Raises RequestError, StoreError, WorkerError or GpuMemoryError; anything else is a bug.
        """
        try:
            _check_numerics(order.request)
            engine = self._load(order)
            self._make_room(engine, order)
            yield _begun(order)
            return (yield from self._run(engine, order, *given))
        except torch.OutOfMemoryError:
            raise GpuMemoryError(what_fits(order, self._gpu(order))) from None
        except ValueError as error:
            raise RequestError(str(error)) from error
        finally:
            if order.lean:
                self._empty_cache()

    def _run(
        self, engine: Renderer | Decoder, order: Order, *given: Any
    ) -> Generator[Step, None, Any]:
        request, task = order.request, order.task
        if isinstance(engine, Renderer):
            if task.stage is Stage.ENCODE:
                return engine.encode(request, self._picture(request.picture))
            start, stop = task.span
            before = given[0] if given[0] is not None else self._checkpoint(request, start)
            latents = yield from self._denoise(engine, request, before, stop)
            self._save(request, latents, start)
            return latents
        if task.stage is Stage.DECODE:
            latents = given[0] or self._checkpoint(request, request.params.steps)
            if order.part is not None:
                work = engine.decode_part(request, latents.latents[0], order.part)
                return (yield from self._waiting(work, request))
            return engine.decode(request, latents.latents[0], task.span)
        return self._mux(order, np.concatenate(given))

    def _denoise(
        self, engine: Renderer, request: RenderRequest, given: Conditioning | Latents, stop: int
    ) -> Generator[Step, None, Latents]:
        work = engine.denoise(request, given, stop)
        while True:
            try:
                done, sketch = next(work)
            except StopIteration as end:
                return end.value
            yield self._previewer.step(request, done, sketch)

    def _waiting(
        self, work: Generator[None, None, video.Frames], request: RenderRequest
    ) -> Generator[Step, None, video.Frames]:
        """Let the task be stopped while a gang is waited for."""
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value
            yield Step(request.params.steps)

    def _mux(self, order: Order, frames: video.Frames) -> Made:
        """Store what people see of the clip, under names that nobody is told before the commit."""
        files = (
            video.encode_video(frames, order.request.params.fps),
            video.thumbnail(frames),
            video.sprite_sheet(frames),
        )
        keys = artifact_keys(order.request.digest, order.attempt)
        for key, data in zip(keys, files, strict=True):
            self._store.put(key, data)
        sha256 = hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()
        return Made(sha256, *keys)

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
            if not order.lean and (self._compiled or self._device.type == "cuda"):
                self._engine.warm_up(order.request.params)
        return self._engine

    def _make_room(self, engine: Renderer | Decoder, order: Order) -> None:
        """What the task computes with onto the device; all else off it, where memory is short."""
        needed = engine.needs(order.task.stage)
        if order.lean:
            for network in engine.networks:
                if network not in needed:
                    network.to("cpu")
            self._empty_cache()
        for network in needed:
            network.to(self._device)

    def _picture(self, digest: str) -> bytes:
        stored = self._store.get(picture_key(digest))
        if stored is None:
            log.error("%s is gone", self._store.where(picture_key(digest)))
            raise RequestError("the picture is gone from the farm's store: send it again")
        if digest_of(stored.data) != digest:
            reason = "its bytes are not those that it is named by"
            move_aside(self._store, picture_key(digest), stored.data, reason)
            raise RequestError("the picture in the farm's store was damaged: send it again")
        return stored.data

    def _checkpoint(self, request: RenderRequest, step: int) -> Latents:
        key = checkpoint_key(request.digest, step)
        stored = self._store.get(key)
        if stored is None:
            raise MissingError(f"{self._store.where(key)} is gone", reason="a checkpoint is gone")
        try:
            return Latents.from_bytes(stored.data, request.digest, step)
        except UnreadableError as error:
            place = move_aside(self._store, key, stored.data, str(error))
            message = f"a checkpoint cannot be read, and is now {place}"
            raise MissingError(message, reason="a checkpoint cannot be read") from error

    def _save(self, request: RenderRequest, latents: Latents, former: int) -> None:
        """Write a checkpoint, behind the back of the next task; one at a time."""
        if self._saving is not None:
            self._saving.result()
        self._saving = self._saver.submit(self._write, request.digest, latents, former)

    def _write(self, clip: str, latents: Latents, former: int) -> None:
        try:
            self._store.put(checkpoint_key(clip, latents.step), latents.to_bytes(clip))
            if former:
                self._store.delete(checkpoint_key(clip, former))
        except StoreError as error:  # what it would have saved is rendered again, should it come so
            log.warning("no checkpoint at step %d: %s", latents.step, error)

    def _empty_cache(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _gpu(self, order: Order) -> Gpu | None:
        """What a task that ran out of memory had; None where it is not of CUDA."""
        engine = self._engine
        if self._device.type != "cuda" or engine is None:
            return None
        needed = {id(p) for network in engine.needs(order.task.stage) for p in network.parameters()}
        weights = {id(p): p.nbytes for n in engine.networks for p in n.parameters() if p.is_cuda}
        others = sum(size for key, size in weights.items() if key not in needed)
        total = torch.cuda.mem_get_info(self._device)[1]
        return Gpu(engine.bytes_needed, total, others)


def _begun(order: Order) -> Step:
    """The sign that its model is loaded, and its work begins."""
    steps, task = order.request.params.steps, order.task
    if task.stage is Stage.ENCODE:
        return Step(0)
    return Step(task.span[0] if task.stage is Stage.DENOISE else steps)


def _check_numerics(request: RenderRequest) -> None:
    """WorkerError where the clip would be named by numerics that did not make it."""
    wanted = getattr(request, "numerics", "none")  # a coordinator of an earlier version knows none
    if wanted != NUMERICS:
        raise WorkerError(
            f"this worker's engine has numerics {NUMERICS}, the clip is to be of {wanted}: "
            "run one version on all nodes"
        )
