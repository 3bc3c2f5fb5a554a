"""Ray: join or start a cluster, host the workers in actors, and run plans on them.

Policy lives in `scheduler`, what a task computes in `workers`; here are processes and refs.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from farm.errors import RequestError, WorkerError
from farm.plan import Stage, Task
from farm.request import Model, ModelFacts, RenderRequest
from farm.scheduler import MAX_ATTEMPTS, size_pools

log = logging.getLogger("farm")

# Tells of a clip under way: the stage, how much of it is done, and of how much.
Progress = Callable[[Stage, int, int], None]
NOTICE_S = 30.0  # how often it is said that work waits for a worker to start
MAX_RESTARTS = 16  # of one actor, so that one which dies at every start is given up


def join_cluster() -> None:
    """Join the cluster of RAY_ADDRESS or of this machine, else start one; WorkerError if none."""
    if ray.is_initialized():
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise WorkerError(f"cannot join or start a Ray cluster: {error}") from error


def free_torch_threads() -> None:
    """Let torch use its own number of threads; called before a process imports torch.

    Ray narrows OMP_NUM_THREADS to an actor's CPUs. On a CPU the last bits of a result depend on the
    thread count, and a clip must not depend on who rendered it (law 1). Idle threads sleep, since
    workers share the cores: three spinning pairs of threads on two cores are ten times slower.
    """
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
        raise WorkerError(f"no process to look at the model: {_last_line(error)}") from error
    return facts


class Host:
    """A worker in a process of its own, doing one task at a time."""

    def __init__(self, kind: str, model: Model, device: str) -> None:
        free_torch_threads()
        from farm import workers

        self._worker = getattr(workers, kind)(model, device)

    # The one call that outlasts restarts: loading a large model anew takes a while.
    @ray.method(max_task_retries=-1)
    def ping(self) -> str:
        """Where the worker is, as `address:pid`; answered once it is loaded."""
        return f"{ray.util.get_node_ip_address()}:{os.getpid()}"

    def run(self, method: str, *arguments: Any) -> tuple[Any, float]:
        """Call the worker: the result, and the seconds it took."""
        start = time.perf_counter()
        result = getattr(self._worker, method)(*arguments)
        return result, time.perf_counter() - start

    def stream(self, method: str, *arguments: Any) -> Iterator[Any]:
        """Call a generator of the worker: all it yields, and at last the seconds it took."""
        start = time.perf_counter()
        yield from getattr(self._worker, method)(*arguments)
        yield time.perf_counter() - start


@dataclass(frozen=True)
class Rendered:
    """A finished clip and how it came about."""

    video: bytes
    thumbnail: bytes
    sha256: str
    seconds: dict[str, float]
    worker: str  # the renderer, as name@address:pid


class Pool:
    """Actors of one kind, of which each does one task at a time."""

    def __init__(self, kind: str, count: int, gpus: float, cpus: float, model: Model) -> None:
        host = ray.remote(Host).options(
            num_gpus=gpus,
            num_cpus=cpus,
            max_restarts=MAX_RESTARTS,
            max_task_retries=0,
            # On a CPU each worker takes all threads of its node, so no two should share one.
            scheduling_strategy="DEFAULT" if gpus else "SPREAD",
        )
        device = "cuda" if gpus else "cpu"
        names = [f"{kind.lower()}-{number}" for number in range(count)]
        self._needs = f"{count} x {kind.lower()}, each with {gpus:g} GPU and {cpus:g} CPU"
        self.actors: dict[str, Any] = {n: host.remote(kind, model, device) for n in names}
        self.places: dict[str, str] = {}  # of each actor that has answered: address:pid
        self._idle: list[str] = []
        self._lost: list[str] = []  # why, for each actor that is gone for good
        self._changed = asyncio.Condition()
        self._watches = {asyncio.create_task(self._admit(name)) for name in names}

    @asynccontextmanager
    async def lease(self, avoid: str = "") -> AsyncIterator[tuple[str, Any]]:
        """An idle actor with its name; another than `avoid` where there is a choice."""
        name = await self._take(avoid)
        alive = True
        try:
            yield name, self.actors[name]
        except RayError as error:
            alive = isinstance(error, RayTaskError)  # the task failed, the worker is well
            raise
        finally:
            if alive:
                await self._put(name)
            else:  # Ray starts it anew; it is idle when it answers
                self._watches.add(asyncio.create_task(self._admit(name)))

    def close(self) -> None:
        """Give the actors' resources back."""
        for watch in self._watches:
            watch.cancel()
        for actor in self.actors.values():
            ray.kill(actor)

    async def _take(self, avoid: str) -> str:
        async with self._changed:
            while not self._idle:
                if len(self._lost) == len(self.actors):
                    raise WorkerError(f"no worker is left ({self._needs}): {self._lost[-1]}")
                try:
                    await asyncio.wait_for(self._changed.wait(), NOTICE_S)
                except TimeoutError:
                    self._notice()
            name = next((name for name in self._idle if name != avoid), avoid)
            self._idle.remove(name)
            return name

    async def _put(self, name: str) -> None:
        async with self._changed:
            self._idle.append(name)
            self._changed.notify_all()

    def _notice(self) -> None:
        """Say what is waited for, where no actor has answered yet."""
        if not self.places:
            free = ray.available_resources()
            log.warning(
                "waiting for %s to start; free: %g GPU and %g CPU",
                self._needs,
                free.get("GPU", 0),
                free.get("CPU", 0),
            )

    async def _admit(self, name: str) -> None:
        """Count an actor as idle when it answers, or as lost."""
        try:
            self.places[name] = await self.actors[name].ping.remote()
        except RayError as error:
            log.warning("%s is lost: %s", name, _last_line(error))
            async with self._changed:
                self._lost.append(_last_line(error))
                self._changed.notify_all()
        else:
            await self._put(name)


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
                reason = _last_line(cause)
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
            conditioning, self._seconds[Stage.ENCODE] = await _run(
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
            frames, seconds = await _run(actor, "decode", latents, task.frames)
            self._seconds[Stage.DECODE] += seconds
        self._refs[task.key] = frames
        chunks = [task.key for task in self._tasks if task.stage == Stage.DECODE]
        self._progress(Stage.DECODE, sum(key in self._refs for key in chunks), len(chunks))


async def _run(actor: Any, method: str, *arguments: Any) -> tuple[Any, float]:
    """Run a task to its end; its result stays where it is, as a ref, beside the seconds it took."""
    result, seconds = actor.run.options(num_returns=2).remote(method, *arguments)
    try:
        return result, await seconds
    except RayError:
        with suppress(RayError):  # an error nobody looked at is reported by Ray, stack and all
            await result
        raise


def _say(cause: BaseException) -> str:
    """An error's message for people; with its type where it is not one we raise on purpose."""
    if isinstance(cause, (ValueError, FileNotFoundError)):
        return str(cause)
    return f"{type(cause).__name__}: {cause}"


def _last_line(error: BaseException) -> str:
    """The line of Ray's report that says why an actor died: the last one."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
