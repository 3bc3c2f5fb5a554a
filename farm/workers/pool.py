"""Workers on Ray: each in an actor of its own, pinned to a node, and restarted when it dies."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import ObjectLostError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from farm.background import Background
from farm.errors import WorkerError, strip_directories
from farm.logs import LogFormat
from farm.model.plan import Kind
from farm.model.task_order import Order, Ref, Step
from farm.scheduling.placement import Node, Slot
from farm.scheduling.state import Fault
from farm.store import KnownStore
from farm.workers.actor import Host
from farm.workers.cluster import live_nodes
from farm.workers.faults import TaskError, last_line, task_error
from farm.workers.protocol import WorkerJoined, WorkerLeft, WorkerReport
from svd_engine import NUMERICS

log = logging.getLogger("farm")

LONGEST_BACKOFF_S = 60.0  # between two starts of a worker that dies at once
REPORT_S = 0.5  # between two step reports of a worker, which are only for people
SETTLED_S = 30.0  # a worker that was up for this long is restarted without a pause
SLOW_START_S = 15.0  # after which a start that is not complete is listed in `troubles`


class RayPool:
    """Implements `Workers` on a Ray cluster."""

    def __init__(
        self,
        store: KnownStore,
        background: Background,
        report: Callable[[WorkerReport], None],
        engine: str,
        compiled: bool,
        load_s: float,
        log_format: LogFormat = "console",
    ) -> None:
        """engine: the module whose `Worker` is run. compiled: whether by `svd_engine.optimize`.

        load_s: the time limit for a worker to start, and for its engine to load.
        """
        self._store, self._engine, self._compiled = store, engine, compiled
        self._background, self._report, self._load_s = background, report, load_s
        self._log_format: LogFormat = log_format
        self.slots: dict[str, Slot] = {}
        self.places: dict[str, str] = {}
        self.troubles: dict[str, str] = {}
        self._actors: dict[str, Any] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._on_step: dict[str, Callable[[Step], None]] = {}  # by the attempt under way

    async def nodes(self) -> list[Node]:
        """The nodes of the cluster."""
        return await asyncio.to_thread(live_nodes)  # blocks while the GCS does not answer

    async def ask_for(self, resources: Mapping[str, float], count: int) -> None:
        """Ask Ray's autoscaler, which keeps to the last request until there is another."""
        await asyncio.to_thread(request_resources, bundles=[dict(resources)] * count)

    def keep(self, slots: Sequence[Slot]) -> list[str]:
        """Start the workers that are missing; returns those that have no slot any more."""
        spare = []
        missing = Counter(slots)
        for name, slot in self.slots.items():
            if missing[slot]:
                missing[slot] -= 1
            else:
                spare.append(name)
        for slot in missing.elements():
            name = self._free_name(slot.kind)
            self.slots[name] = slot
            self._watches[name] = self._background.start(self._watch(name))
        return spare

    def retire(self, name: str) -> None:
        """End a worker for good."""
        del self.slots[name]
        self.troubles.pop(name, None)
        self._watches.pop(name).cancel()
        self._kill(name)

    def restart(self, name: str) -> None:
        """End a worker's process; `_watch` starts another.

        A process that is not up yet is left alone, because it may already be the next one.
        """
        if name in self.places:
            self._kill(name)

    async def run(
        self,
        name: str,
        order: Order,
        inputs: Sequence[Ref | None],
        on_step: Callable[[Step], None],
    ) -> tuple[Ref, float]:
        """Run a task to its end; its result, and the seconds that it took. Raises TaskError."""
        actor = self._actor(name)
        self._on_step[order.attempt] = on_step
        try:
            result, seconds = actor.run.remote(order, *inputs)
            return result, await seconds
        except RayError as error:
            raise _task_error(error) from error
        finally:
            del self._on_step[order.attempt]

    async def rendezvous(self, name: str) -> str:
        """An address for a rendezvous of the workers that share a task with this one."""
        actor = self._actor(name)
        try:
            address: str = await actor.rendezvous.remote()
            return address
        except RayError as error:
            raise _task_error(error) from error

    def stop(self, name: str, attempt: str) -> None:
        """Ask a worker to end an attempt at its next step."""
        if name in self._actors:
            self._actors[name].stop.remote(attempt)

    def hand_over(self, name: str, attempt: str) -> None:
        """Ask a worker to save a checkpoint of an attempt at its next step, and end it."""
        if name in self._actors:
            self._actors[name].hand_over.remote(attempt)

    async def _watch(self, name: str) -> None:
        """Keep one worker alive, for as long as it has a slot."""
        backoff = 0.0
        while True:
            await asyncio.sleep(backoff)
            up_at: float | None = None
            try:
                actor = self._actors[name] = self._start(name)
                await self._begin(name, actor)
                up_at = time.monotonic()
                await self._follow(actor)
            except Exception as error:  # Ray's errors, or any error of the worker itself
                why = last_line(error)
            log.warning("%s is not up: %s", name, why)
            self._kill(name)
            self.places.pop(name, None)
            self._report(WorkerLeft(name, strip_directories(why)))
            if up_at is not None and time.monotonic() - up_at > SETTLED_S:
                backoff = 0.0
            else:
                self.troubles[name] = strip_directories(why)
                backoff = min(LONGEST_BACKOFF_S, max(0.5, 2 * backoff))

    async def _begin(self, name: str, actor: Any) -> None:
        """Wait until a worker is up, and report it. Raises RayError or WorkerError."""
        slot = self.slots[name]
        needs = f"{slot.gpus:g} GPU" if slot.gpus else f"{slot.cpus:g} CPU"
        place = await self._within_limit(
            name,
            actor.place.remote(),
            f"its process does not start: it needs {needs} of node {slot.node[:8]}, which other "
            "work may hold",
        )
        await self._within_limit(name, actor.begin.remote(), "its engine does not load")
        await _check_numerics(actor)
        memory = await self._within_limit(name, actor.memory.remote(), "its GPU does not answer")
        self.places[name] = place
        self.troubles.pop(name, None)
        self._report(WorkerJoined(name, slot.kind, memory))

    async def _within_limit(self, name: str, ref: Any, slow: str) -> Any:
        """A worker's answer. slow: the trouble to list while it is late. Raises WorkerError."""
        answer = asyncio.ensure_future(_answer(ref))
        try:
            done, _ = await asyncio.wait({answer}, timeout=min(SLOW_START_S, self._load_s))
            if not done:
                self.troubles.setdefault(name, slow)
                rest_s = max(0.0, self._load_s - SLOW_START_S)
                done, _ = await asyncio.wait({answer}, timeout=rest_s)
            if not done:
                raise WorkerError(f"{slow}, and was ended after {self._load_s:g} s")
            return answer.result()
        finally:
            answer.cancel()

    async def _follow(self, actor: Any) -> None:
        """Pass on a worker's steps until it dies, which raises RayError."""
        while True:
            attempt, step = await actor.stepped.remote()
            if attempt in self._on_step:
                self._on_step[attempt](step)
            await asyncio.sleep(REPORT_S)

    def _actor(self, name: str) -> Any:
        if name not in self._actors:
            raise TaskError(Fault.LOST, f"{name} is gone")
        return self._actors[name]

    def _start(self, name: str) -> Any:
        slot = self.slots[name]
        host: Any = ray.remote(concurrency_groups={"control": 3})(Host)  # type: ignore[call-overload]
        return host.options(
            num_gpus=slot.gpus,
            num_cpus=slot.cpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
        ).remote(slot, self._store, self._engine, self._compiled, name, self._log_format)

    def _free_name(self, kind: Kind) -> str:
        number = 0
        while f"{kind}-{number}" in self.slots:
            number += 1
        return f"{kind}-{number}"

    def _kill(self, name: str) -> None:
        actor = self._actors.pop(name, None)
        if actor is not None:
            ray.kill(actor)


async def _answer(ref: Any) -> Any:
    return await ref


async def _check_numerics(actor: Any) -> None:
    """Raise WorkerError if the engine has other numerics: its clips would get wrong digests."""
    try:
        found = await actor.numerics.remote()
    except RayTaskError:  # a version that is older than NUMERICS
        found = None
    if found != NUMERICS:
        raise WorkerError(
            f"its engine has numerics {found}, the farm's {NUMERICS}: run one version on all nodes"
        )


def _task_error(error: RayError) -> TaskError:
    cause: Any = error.cause if isinstance(error, RayTaskError) else error
    if not isinstance(cause, RayError):
        return task_error(cause)
    log.warning("a worker: %s: %s", type(cause).__name__, cause)
    if isinstance(cause, ObjectLostError):
        return TaskError(Fault.STALE, strip_directories(str(cause)))
    return TaskError(Fault.LOST, strip_directories(last_line(cause)))
