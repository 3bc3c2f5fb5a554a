"""Workers in threads of this process: a farm without Ray, for tests."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from farm.background import in_daemon_thread
from farm.model.task_order import Order, Ref, Step
from farm.scheduling.placement import Node, Slot
from farm.scheduling.state import Fault
from farm.tracing import UNTRACED, Tracer
from farm.workers.faults import StoppedError, TaskError, task_error
from farm.workers.protocol import WorkerJoined, WorkerLeft, WorkerReport
from farm.workers.task_log import logged


class TaskWorker(Protocol):
    """An object that runs tasks, like `farm.workers.worker.Worker`."""

    def run(self, order: Order, *inputs: Any) -> Generator[Step, bool | None, Any]:
        """Yield the task's progress, and return its result; True that is sent: hand over."""


@dataclass(eq=False)
class _Hosted:
    """A worker, and the signals that stop it."""

    name: str
    worker: TaskWorker
    tracer: Tracer
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: str = ""  # the attempt that was asked to stop
    handing_over: str = ""  # the attempt that was asked to hand over


class InProcessWorkers:
    """Implements `Workers` by a thread for each task.

    A thread cannot be killed: when a worker is restarted, its thread is abandoned, and its result
    is discarded.
    """

    def __init__(
        self,
        make: Callable[[Slot], TaskWorker],
        report: Callable[[WorkerReport], None],
        nodes: Sequence[Node],
        tracer: Tracer = UNTRACED,
    ) -> None:
        """make: makes the worker of a slot. nodes: the result of `nodes()`."""
        self._make, self._report, self._nodes = make, report, list(nodes)
        self._tracer = tracer
        self.slots: dict[str, Slot] = {}
        self.places: dict[str, str] = {}
        self.troubles: dict[str, str] = {}
        self._hosted: dict[str, _Hosted] = {}

    async def nodes(self) -> list[Node]:
        """The nodes given to the constructor."""
        return self._nodes

    async def ask_for(self, resources: Mapping[str, float], count: int) -> None:
        """Do nothing: there is one node."""

    def keep(self, slots: Sequence[Slot]) -> list[str]:
        """Start the workers that are missing; returns those that have no slot any more."""
        missing = Counter(slots)
        missing.subtract(self.slots.values())
        for slot in missing.elements():
            number = sum(other.kind is slot.kind for other in self.slots.values())
            self._start(f"{slot.kind}-{number}", slot)
        wanted = Counter(slots)
        spare = []
        for name, slot in self.slots.items():
            wanted[slot] -= 1
            if wanted[slot] < 0:
                spare.append(name)
        return spare

    def retire(self, name: str) -> None:
        """End a worker for good."""
        self._end(name)
        del self.slots[name]

    def restart(self, name: str) -> None:
        """End a worker, and start another in its slot."""
        if name in self.places:
            self._end(name)
            self._report(WorkerLeft(name, "it was restarted"))
            self._start(name, self.slots[name])

    async def run(
        self,
        name: str,
        order: Order,
        inputs: Sequence[Ref | None],
        on_step: Callable[[Step], None],
    ) -> tuple[Ref, float]:
        """Run a task to its end; its result, and the seconds that it took. Raises TaskError."""
        hosted = self._hosted.get(name)
        if hosted is None:
            raise TaskError(Fault.LOST, f"{name} is gone")
        values = [None if ref is None else await ref for ref in inputs]
        began, loop = time.perf_counter(), asyncio.get_running_loop()

        def step(step: Step) -> None:
            loop.call_soon_threadsafe(on_step, step)

        result = asyncio.wrap_future(in_daemon_thread(partial(_run, hosted, order, values, step)))
        ended = asyncio.ensure_future(hosted.ended.wait())
        await asyncio.wait({result, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not result.done():
            result.cancel()
            raise TaskError(Fault.LOST, f"{name} has died")
        if error := result.exception():
            raise task_error(error) from error
        return result, time.perf_counter() - began

    async def rendezvous(self, name: str) -> str:
        """Return the worker's name: threads need no network address."""
        return name

    def stop(self, name: str, attempt: str) -> None:
        """Ask a worker to end an attempt at its next step."""
        if name in self._hosted:
            self._hosted[name].stopping = attempt

    def hand_over(self, name: str, attempt: str) -> None:
        """Ask a worker to save a checkpoint of an attempt at its next step, and end it."""
        if name in self._hosted:
            self._hosted[name].handing_over = attempt

    def _start(self, name: str, slot: Slot) -> None:
        self._hosted[name] = _Hosted(name, self._make(slot), self._tracer)
        self.slots[name], self.places[name] = slot, "here:0"
        self._report(WorkerJoined(name, slot.kind))

    def _end(self, name: str) -> None:
        self.places.pop(name, None)
        self._hosted.pop(name).ended.set()


def _run(
    hosted: _Hosted, order: Order, values: Sequence[Any], on_step: Callable[[Step], None]
) -> Any:
    with logged(order, hosted.name, hosted.tracer):
        return _run_steps(hosted, order, values, on_step)


def _run_steps(
    hosted: _Hosted, order: Order, values: Sequence[Any], on_step: Callable[[Step], None]
) -> Any:
    work, hand_over = hosted.worker.run(order, *values), False
    while True:
        try:
            step = work.send(hand_over or None)  # None at first, as it must be
        except StopIteration as end:
            return end.value
        if hosted.stopping == order.attempt:
            raise StoppedError
        hand_over = hosted.handing_over == order.attempt
        on_step(step)
