"""Ray: join or start a cluster, ask it about a model, and run plans on its workers.

How many workers there are is decided in `scheduler`, what a task computes in `workers`; the actors
are in `pool`. Here are refs.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from farm.errors import RequestError, WorkerError
from farm.plan import Stage, Task
from farm.pool import Pool, free_torch_threads, last_line, run_task
from farm.request import Model, ModelFacts, RenderRequest
from farm.scheduler import MAX_ATTEMPTS, size_pools

log = logging.getLogger("farm")

# Tells of a clip under way: the stage, how much of it is done, and of how much.
Progress = Callable[[Stage, int, int], None]


def join_cluster() -> None:
    """Join the cluster of RAY_ADDRESS or of this machine, else start one; WorkerError if none."""
    if ray.is_initialized():
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise WorkerError(f"cannot join or start a Ray cluster: {error}") from error


@ray.remote(num_cpus=0, max_calls=1)
def _describe(model: Model) -> ModelFacts:
    free_torch_threads()
    from farm.workers import describe

    return describe(model)


async def describe_model(model: Model) -> ModelFacts:
    """Ask a process of the cluster for a model's digest and defaults; RequestError if none."""
    try:
        facts: ModelFacts = await _describe.remote(model)
    except RayTaskError as error:
        raise RequestError(_say(error.cause)) from error
    except RayError as error:
        raise WorkerError(f"no process to look at the model: {last_line(error)}") from error
    return facts


@dataclass(frozen=True)
class Rendered:
    """A finished clip and how it came about."""

    video: bytes
    thumbnail: bytes
    sha256: str
    seconds: dict[str, float]
    worker: str  # the renderer, as name@address:pid


class Cluster:
    """Pools of workers for one model, and the running of plans on them."""

    def __init__(self, model: Model, workers: int | None = None) -> None:
        """Start the workers; each is used as soon as it is ready."""
        total = ray.cluster_resources()
        nodes = len([node for node in ray.nodes() if node["Alive"]])
        if workers and workers > total.get("GPU", 0) > 0:
            log.warning("%d workers were asked for; there are %d GPUs", workers, total["GPU"])
        size = size_pools(int(total.get("GPU", 0)), total.get("CPU", 1), nodes, workers)
        self.renderers = Pool("Renderer", size.renderers, size.renderer_gpus, size.cpus, model)
        self.decoders = Pool("Decoder", size.decoders, size.decoder_gpus, size.cpus, model)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.renderers.close()
        self.decoders.close()

    async def render(
        self, request: RenderRequest, tasks: tuple[Task, ...], picture: bytes, progress: Progress
    ) -> Rendered:
        """Run a clip's plan. A worker's death costs an attempt, and the next one is elsewhere.

        Raises RequestError for what no attempt can mend, and WorkerError after the last attempt.
        """
        clip = _ClipRun(self, request, tasks, ray.put(picture), progress)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await clip.run()
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                if not isinstance(cause, RayError):
                    raise RequestError(_say(cause)) from error
                reason = last_line(cause)
                log.warning("attempt %d of %d lost its worker: %s", attempt, MAX_ATTEMPTS, reason)
                if isinstance(cause, ObjectLostError):
                    clip.forget()
        raise WorkerError(f"{MAX_ATTEMPTS} workers died over it, the last one so: {reason}")


class _ClipRun:
    """One clip's plan being run: refs by key, kept from one attempt to the next."""

    def __init__(
        self,
        cluster: Cluster,
        request: RenderRequest,
        tasks: tuple[Task, ...],
        picture: Any,
        progress: Progress,
    ) -> None:
        self._cluster = cluster
        self._params = request.params
        self._tasks = tasks
        self._picture = picture
        self._progress = progress
        self._refs: dict[str, Any] = {}
        self._seconds: dict[Stage, float] = dict.fromkeys(Stage, 0.0)
        self._renderer = ""

    def forget(self) -> None:
        """Drop all refs: an object went with its node."""
        self._refs.clear()
        self._seconds = dict.fromkeys(Stage, 0.0)

    async def run(self) -> Rendered:
        """Run the tasks whose results are not there yet."""
        encode, denoise, *decodes, mux = self._tasks
        if denoise.key not in self._refs:
            await self._render(encode, denoise)
        chunks = asyncio.gather(*(self._decode(task) for task in decodes), return_exceptions=True)
        for error in await chunks:
            if error is not None:
                raise error
        refs = [self._refs[key] for key in mux.needs]
        async with self._cluster.decoders.lease() as (_, actor):
            muxed, self._seconds[Stage.MUX] = await actor.run.remote("mux", self._params.fps, *refs)
        video, thumbnail, sha256 = muxed
        seconds = {stage.value: round(s, 3) for stage, s in self._seconds.items()}
        place = self._cluster.renderers.places[self._renderer]
        return Rendered(video, thumbnail, sha256, seconds, f"{self._renderer}@{place}")

    async def _render(self, encode: Task, denoise: Task) -> None:
        """Encode and denoise on one renderer; the latents stay in the object store."""
        steps = self._params.steps
        async with self._cluster.renderers.lease(avoid=self._renderer) as (self._renderer, actor):
            self._progress(Stage.ENCODE, 0, 1)
            conditioning, self._seconds[Stage.ENCODE] = await run_task(
                actor, "encode", self._picture, self._params
            )
            stream = actor.stream.options(num_returns="streaming").remote(
                "denoise", conditioning, self._params
            )
            refs = []
            async for ref in stream:
                refs.append(ref)
                if len(refs) <= steps:
                    self._progress(Stage.DENOISE, await ref, steps)
            # A stream that fails ends with the error, in the place of what should have come.
            self._seconds[Stage.DENOISE] = await refs[-1]
            self._refs |= {encode.key: conditioning, denoise.key: refs[-2]}

    async def _decode(self, task: Task) -> None:
        if task.key in self._refs:
            return
        latents = self._refs[task.needs[0]]
        async with self._cluster.decoders.lease() as (_, actor):
            frames, seconds = await run_task(actor, "decode", latents, task.frames)
            self._seconds[Stage.DECODE] += seconds
        self._refs[task.key] = frames
        chunks = [task.key for task in self._tasks if task.stage == Stage.DECODE]
        self._progress(Stage.DECODE, sum(key in self._refs for key in chunks), len(chunks))


def _say(cause: BaseException) -> str:
    """An error's message for people; with its type where it is not one we raise on purpose."""
    if isinstance(cause, (ValueError, FileNotFoundError)):
        return str(cause)
    return f"{type(cause).__name__}: {cause}"
