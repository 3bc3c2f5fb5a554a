"""Ray: workers in actors of their own, and pools of them that lend one at a time."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from farm.errors import WorkerError
from farm.request import Model

log = logging.getLogger("farm")

NOTICE_S = 30.0  # how often it is said that work waits for a worker to start
MAX_RESTARTS = 16  # of one actor, so that one which dies at every start is given up


def free_torch_threads() -> None:
    """Let torch use its own number of threads; called before a process imports torch.

    Ray narrows OMP_NUM_THREADS to an actor's CPUs. On a CPU the last bits of a result depend on the
    thread count, and a clip must not depend on who rendered it (law 1). Idle threads sleep, since
    workers share the cores: three spinning pairs of threads on two cores are ten times slower.
    """
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
            log.warning("%s is lost: %s", name, last_line(error))
            async with self._changed:
                self._lost.append(last_line(error))
                self._changed.notify_all()
        else:
            await self._put(name)


async def run_task(actor: Any, method: str, *arguments: Any) -> tuple[Any, float]:
    """Run a task to its end; its result stays where it is, as a ref, beside the seconds it took."""
    result, seconds = actor.run.options(num_returns=2).remote(method, *arguments)
    try:
        return result, await seconds
    except RayError:
        with suppress(RayError):  # an error nobody looked at is reported by Ray, stack and all
            await result
        raise


def last_line(error: BaseException) -> str:
    """The line of Ray's report that says why an actor died: the last one."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
