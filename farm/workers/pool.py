"""Ray: workers in actors of their own, pinned to nodes and GPUs, started anew when they die."""

import asyncio
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from farm.errors import (
    GangError,
    GpuMemoryError,
    MissingError,
    RequestError,
    StoreError,
    WorkerError,
    without_places,
)
from farm.model.plan import Kind
from farm.model.task_order import Order, Step
from farm.scheduling.placement import Slot
from farm.scheduling.state import Fault
from farm.store import Store
from svd_engine import NUMERICS

log = logging.getLogger("farm")

LONGEST_BACKOFF_S = 60.0  # between two starts of a worker that dies at once
REPORT_S = 0.5  # between two looks at a worker's steps: people read them
SETTLED_S = 30.0  # a worker that was up so long starts anew without waiting
TOLD_S = 15.0  # until a worker that does not come up is a trouble to tell of


def free_torch_threads(spins: bool = False) -> None:
    """Let torch use its own number of threads; called before a process imports torch.

    Ray narrows OMP_NUM_THREADS to an actor's CPUs. On a CPU the last bits of a result depend on the
    thread count, and a clip must not depend on who rendered it (law 1). spins: see `Slot`.
    """
    os.environ.pop("OMP_NUM_THREADS", None)
    if not spins:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class StoppedError(Exception):
    """A task that was asked to stop, and did."""


class TaskError(Exception):
    """A task that was not done: which kind of fault, what is said of it, and whose it was."""

    def __init__(self, fault: Fault, message: str, worker: str = "") -> None:
        super().__init__(message)
        self.fault, self.worker = fault, worker


class Host:
    """A worker in a process of its own, doing one task at a time."""

    def __init__(self, slot: Slot, store: Store, engine: str, compiled: bool) -> None:
        self._slot, self._store, self._engine, self._compiled = slot, store, engine, compiled
        self._worker: Any = None
        self._unwanted = ""
        self._step = "", Step(0)  # the attempt under way, and how far it is
        self._stepped = threading.Event()

    def begin(self) -> None:
        """Load the engine. Apart from the actor's creation, so that its errors come as they are."""
        free_torch_threads(self._slot.spins)
        device = "cuda" if self._slot.gpus else "cpu"
        worker = import_module(self._engine).Worker
        self._worker = worker(self._slot.kind, device, self._store, self._compiled)

    @ray.method(num_returns=2)
    def run(self, order: Order, *given: Any) -> tuple[Any, float]:
        """A task's result, and the seconds it took."""
        began = time.perf_counter()
        work = self._worker.run(order, *given)
        while True:
            try:
                step = next(work)
            except StopIteration as end:
                return end.value, time.perf_counter() - began
            if self._unwanted == order.attempt:
                raise StoppedError
            self._step = order.attempt, step
            self._stepped.set()

    @ray.method(concurrency_group="control")
    def place(self) -> str:
        """Where it is, as `address:pid`; answered once it is there."""
        return f"{ray.util.get_node_ip_address()}:{os.getpid()}"

    @ray.method(concurrency_group="control")
    def numerics(self) -> int:
        """The numerics of its engine: a node may have another version than the coordinator."""
        return NUMERICS

    @ray.method(concurrency_group="control")
    def stepped(self) -> tuple[str, Step]:
        """Wait for the next step; its attempt, and how far it is. Fails at the worker's death."""
        self._stepped.wait()
        self._stepped.clear()
        return self._step

    @ray.method(concurrency_group="control")
    def memory(self) -> int | None:
        """Bytes of its share of a GPU; None without one."""
        if not self._slot.gpus:
            return None
        from farm.workers.engines import gpu_bytes

        return int(self._slot.gpus * gpu_bytes())

    @ray.method(concurrency_group="control")
    def meeting(self) -> str:
        """Where a gang may meet that this worker is the first of: host:port."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    @ray.method(concurrency_group="control")
    def stop(self, attempt: str) -> None:
        """Ask the attempt to end at its next step."""
        self._unwanted = attempt


class Pool:
    """Keeps a worker in each slot."""

    def __init__(
        self,
        store: Store,
        engine: str,
        compiled: bool,
        load_s: float,
        joined: Callable[[str, Kind, int | None], None],
        left: Callable[[str, str], None],
    ) -> None:
        """engine: the module whose `Worker` is hosted. joined, left: told of workers by name.

        compiled: whether workers run their networks by `svd_engine.optimize`.
        load_s: for a worker to start, and for its engine to load; then it is ended.
        joined: of its memory, too, in bytes of a GPU; None without one.
        """
        self._store, self._engine, self._compiled = store, engine, compiled
        self._load_s = load_s
        self._joined, self._left = joined, left
        self.slots: dict[str, Slot] = {}
        self.places: dict[str, str] = {}  # address:pid, of those that are up
        self.troubles: dict[str, str] = {}  # why the others are not
        self._actors: dict[str, Any] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._on_step: dict[str, Callable[[Step], None]] = {}  # by attempt, of those under way

    def keep(self, slots: Sequence[Slot]) -> list[str]:
        """Start what is missing; the names of workers that have no slot any more."""
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
            self._watches[name] = asyncio.create_task(self._watch(name))
        return spare

    def retire(self, name: str) -> None:
        """End a worker for good."""
        del self.slots[name]
        self.troubles.pop(name, None)
        self._watches.pop(name).cancel()
        self._kill(name)

    def restart(self, name: str) -> None:
        """End a worker's process; its watch starts another."""
        self._kill(name)

    async def run(
        self, name: str, order: Order, given: Sequence[Any], on_step: Callable[[Step], None]
    ) -> tuple[Any, float]:
        """Run a task to its end: a ref to its result, and the seconds it took. Or TaskError."""
        actor = self._actors.get(name)
        if actor is None:
            raise TaskError(Fault.LOST, f"{name} is gone")
        self._on_step[order.attempt] = on_step
        try:
            result, seconds = actor.run.remote(order, *given)
            return result, await seconds
        except RayError as error:
            raise _fault_of(error) from error
        finally:
            del self._on_step[order.attempt]

    async def meeting(self, name: str) -> str:
        """Where a gang may meet that this worker is the first of. TaskError."""
        actor = self._actors.get(name)
        if actor is None:
            raise TaskError(Fault.LOST, f"{name} is gone")
        try:
            address: str = await actor.meeting.remote()
            return address
        except RayError as error:
            raise _fault_of(error) from error

    def stop(self, name: str, attempt: str) -> None:
        """Ask a worker's attempt to end at its next step."""
        if name in self._actors:
            self._actors[name].stop.remote(attempt)

    async def _watch(self, name: str) -> None:
        """Keep one worker alive, for as long as it has a slot."""
        backoff = 0.0
        while True:
            await asyncio.sleep(backoff)
            up_at: float | None = None
            try:
                actor = self._actors[name] = self._start(self.slots[name])
                await self._begin(name, actor)
                up_at = time.monotonic()
                await self._follow(actor)
            except Exception as error:  # of Ray's, or of what is started: no worker is left alone
                self._kill(name)
                self.places.pop(name, None)
                why = without_places(last_line(error))  # jobs that wait for it say so
                log.warning("%s is not up: %s", name, last_line(error))
                self._left(name, why)
            lived = 0.0 if up_at is None else time.monotonic() - up_at
            if lived > SETTLED_S:
                backoff = 0.0
            else:
                self.troubles[name] = why
                backoff = min(LONGEST_BACKOFF_S, max(0.5, 2 * backoff))

    async def _begin(self, name: str, actor: Any) -> None:
        """Tell of a worker that is up. A RayError or WorkerError says why it is not."""
        slot = self.slots[name]
        needs = f"{slot.gpus:g} GPU" if slot.gpus else f"{slot.cpus:g} CPU"
        place = await self._soon(
            name,
            actor.place.remote(),
            f"its process does not start: it needs {needs} of node {slot.node[:8]}, which other "
            "work may hold",
        )
        await self._soon(name, actor.begin.remote(), "its engine does not load")
        await _check_numerics(actor)
        memory = await self._soon(name, actor.memory.remote(), "its GPU does not answer")
        self.places[name] = place
        self.troubles.pop(name, None)
        self._joined(name, slot.kind, memory)

    async def _soon(self, name: str, ref: Any, slow: str) -> Any:
        """What a worker answers. `slow` is its trouble while that is late; WorkerError at last."""
        answer = asyncio.ensure_future(_answer(ref))
        try:
            done, _ = await asyncio.wait({answer}, timeout=min(TOLD_S, self._load_s))
            if not done:
                self.troubles.setdefault(name, slow)
                done, _ = await asyncio.wait({answer}, timeout=max(0.0, self._load_s - TOLD_S))
            if not done:
                raise WorkerError(f"{slow}, and was ended after {self._load_s:g} s")
            return answer.result()
        finally:
            answer.cancel()

    async def _follow(self, actor: Any) -> None:
        """Tell of a worker's steps, until it dies."""
        while True:
            attempt, step = await actor.stepped.remote()
            if attempt in self._on_step:
                self._on_step[attempt](step)
            await asyncio.sleep(REPORT_S)

    def _start(self, slot: Slot) -> Any:
        host: Any = ray.remote(concurrency_groups={"control": 3})(Host)  # type: ignore[call-overload]
        return host.options(
            num_gpus=slot.gpus,
            num_cpus=slot.cpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
        ).remote(slot, self._store, self._engine, self._compiled)

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
    """WorkerError for a worker of another engine: its clips would bear the wrong name."""
    try:
        found = await actor.numerics.remote()
    except RayTaskError:  # from before they were counted
        found = None
    if found != NUMERICS:
        raise WorkerError(
            f"its engine has numerics {found}, the farm's {NUMERICS}: run one version on all nodes"
        )


_FAULTS: tuple[tuple[type[BaseException], Fault], ...] = (
    (RequestError, Fault.REQUEST),
    (MissingError, Fault.STALE),
    (StoreError, Fault.STORE),
    (GpuMemoryError, Fault.MEMORY),
    (GangError, Fault.GANG),
    (WorkerError, Fault.ERROR),
    (StoppedError, Fault.STOPPED),
    (ObjectLostError, Fault.STALE),
    (RayError, Fault.LOST),
)


def _fault_of(error: RayError) -> TaskError:
    """What clients are told of a fault: without places, which are for operators and in the log."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    log.warning("a worker: %s: %s", type(cause).__name__, cause)
    fault = next((fault for kind, fault in _FAULTS if isinstance(cause, kind)), None)
    if isinstance(cause, StoreError) and fault is not None:
        return TaskError(fault, f"the farm's store: {cause.reason}")
    if fault is None:
        return TaskError(Fault.ERROR, without_places(f"{type(cause).__name__}: {cause}"))
    return TaskError(fault, without_places(last_line(cause) if fault is Fault.LOST else str(cause)))


def last_line(error: BaseException) -> str:
    """The line of Ray's report that says why an actor died: the last one."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
