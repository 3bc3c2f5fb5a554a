"""What stands between jobs and workers, put together alone, with a clock to set."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from farm.background import Background
from farm.coordinator.clip_store import ClipStore
from farm.coordinator.clips import Clip, ClipEvent
from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.finished_clips import FinishedClips
from farm.coordinator.inbox import Inbox
from farm.coordinator.maintenance import Maintenance
from farm.coordinator.metrics import Metrics
from farm.coordinator.quotas import Quotas
from farm.coordinator.reports import Report
from farm.coordinator.sharing import Sharing
from farm.coordinator.task_runner import TaskRunner
from farm.coordinator.work_history import WorkHistory
from farm.errors import StoreError
from farm.model.job import JobRecord
from farm.model.plan import Kind, Stage
from farm.model.task_order import Made, Order, Ref, Step
from farm.model.usage import ByDay
from farm.records.job_book import JobBook
from farm.scheduling.placement import Node, Slot
from farm.scheduling.scheduler import Scheduler
from farm.scheduling.state import Fault
from farm.settings import load_settings
from farm.store.local import LocalStore
from farm.store.quarantine import Quarantine
from farm.workers.faults import TaskError
from farm.workers.protocol import WorkerJoined, WorkerLeft, WorkerReport
from tests.model.test_job import job as job_of
from tests.support.in_loop import in_loop
from tests.support.recorded import Recorded

WAIT_S = 20.0  # generous: it takes milliseconds


class ManualClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    wall = monotonic = now


@dataclass
class Running:
    """A task on a worker."""

    order: Order
    inputs: Sequence[Ref | None]
    on_step: Callable[[Step], None]
    end: "asyncio.Future[Any]"


@dataclass
class HeldWorkers:
    """Workers whose tasks end when a test says so."""

    report: Callable[[WorkerReport], None]
    slots: dict[str, Slot] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    handed_over: list[str] = field(default_factory=list)
    asked: list[tuple[dict[str, float], int]] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    machines: list[Node] = field(default_factory=list)

    async def nodes(self) -> list[Node]:
        return self.machines

    async def ask_for(self, resources: Mapping[str, float], count: int) -> None:
        self.asked.append((dict(resources), count))

    def keep(self, slots: Sequence[Slot]) -> list[str]:
        """Each slot is of a worker named by its node and kind."""
        wanted = {f"{slot.node}-{slot.kind}": slot for slot in slots}
        for name, slot in wanted.items():
            if name not in self.slots:
                self.join(name, slot)
        return [name for name in self.slots if name not in wanted]

    def join(self, name: str, slot: Slot) -> None:
        self.slots[name], self.places[name] = slot, "here:0"
        self.report(WorkerJoined(name, slot.kind))

    def retire(self, name: str) -> None:
        del self.slots[name], self.places[name]

    def restart(self, name: str) -> None:
        self.restarted.append(name)

    async def run(
        self,
        name: str,
        order: Order,
        inputs: Sequence[Ref | None],
        on_step: Callable[[Step], None],
    ) -> tuple[Ref, float]:
        end = asyncio.get_running_loop().create_future()
        self.running[name] = Running(order, inputs, on_step, end)
        try:
            await end
        finally:
            del self.running[name]
        return end, 2.0

    async def rendezvous(self, name: str) -> str:
        return name

    def stop(self, name: str, attempt: str) -> None:
        assert self.running[name].order.attempt == attempt
        self.stopped.append(name)

    def hand_over(self, name: str, attempt: str) -> None:
        assert self.running[name].order.attempt == attempt
        self.handed_over.append(name)


async def no_usage(_: date) -> ByDay:
    return {}


async def none_stored() -> dict[str, int]:
    return {}


async def no_size(_: str) -> int:
    return 0


class Core:
    """Book, sharing, scheduler, dispatcher and maintenance; `step` is one turn of the loop."""

    def __init__(self, store: Path | LocalStore, **max_gpus: int) -> None:
        async def ended(job: JobRecord) -> None:
            await self.finished.enter(job)

        self.clock, self.failures = ManualClock(), list[str]()
        self.published: list[str] = []
        self.write_error: StoreError | None = None
        self.store = LocalStore(str(store)) if isinstance(store, Path) else store
        self.background = Background(64, self.failures.append)
        self.inbox = Inbox[Report]()
        self.scheduler = Scheduler[Clip](max_gpus)
        self.workers = HeldWorkers(self.inbox.put)
        self.clip_store = ClipStore(self.store, self.background, 1, self.clock)
        self.runner = TaskRunner(
            *(self.workers, self.clip_store, self.background, self.inbox, self.clock),
            WorkHistory(self.clock),
        )
        self.dispatcher = Dispatcher(
            self.scheduler, self.workers, self.runner, self.inbox, self.clock, 5
        )
        self.book = JobBook(
            self.store, self.background, 1, lambda _: None, ended, lambda: self.failures.append("")
        )
        self.sharing, self.recorded = self.new_sharing(), Recorded()
        self.metrics = Metrics(
            self.recorded,
            self.book.open,
            self.scheduler,
            self.workers,
            Quarantine(self.store, self.background),
            lambda: self.write_error,
            self.clock,
        )
        stored = no_usage, none_stored, no_size, self.book.read
        self.quotas = Quotas(load_settings(), self.clock, self.book.open, *stored)
        self.held: dict[str, str] = {}  # tenants whose jobs wait, and why
        self.maintenance = self.new_maintenance()

    def new_maintenance(self, **settings: Any) -> Maintenance:
        """With other settings; returned, and used from now on."""
        self.maintenance = Maintenance(
            load_settings(**{"stall_s": 60.0, "load_s": 600.0, **settings}),
            self.workers,
            self.scheduler,
            self.dispatcher,
            self.sharing,
            self.book,
            lambda: self.held,
            self.clock,
        )
        return self.maintenance

    def new_sharing(self) -> Sharing:
        """As a coordinator that has just begun has it."""
        self.finished = FinishedClips(self.store, self.background, 1)
        return Sharing(self.book, self.dispatcher, self.finished, self.published.append)

    async def admit(self, name: str, tenant: str = "one", **changes: Any) -> JobRecord:
        asked = job_of().model_copy(update={"id": name, "tenant": tenant, **changes})
        admitted, _ = await self.book.create(asked)
        await self.sharing.admit(admitted)
        return admitted

    def add_worker(self, kind: Kind, number: int = 0) -> str:
        name = f"{kind}-{number}"
        self.workers.join(name, Slot(kind, "node", 0.0, 1.0))
        return name

    def the_clip(self) -> Clip:
        (clip,) = self.dispatcher.clips.values()
        return clip

    async def job(self, name: str) -> JobRecord:
        """The job as it is in the store."""
        return await self.book.save_in_background(name)

    async def step(self, wait_s: float = WAIT_S) -> list[ClipEvent]:
        """One turn of the render loop, as `render_forever` has it, and what came of it."""
        self.dispatcher.schedule()
        events: list[ClipEvent] = []
        for report in await asyncio.wait_for(self.dispatcher.reports(), wait_s):
            self.metrics.count_report(report)
            for event in self.dispatcher.postprocess(report):
                self.metrics.count_event(event)
                self.sharing.apply(event)
                events.append(event)
        await asyncio.sleep(0)  # tasks that were started are begun
        return events

    async def steps_until(self, done: Callable[[], object]) -> list[ClipEvent]:
        """Turns of the loop until something is so; all that came of them."""
        events: list[ClipEvent] = []
        while not done():
            with suppress(TimeoutError):
                events += await self.step(0.05)
        return events

    async def run_one(self, kind: Kind) -> Running:
        """Step until a worker of that kind has a task."""
        name = f"{kind}-0"
        await self.steps_until(lambda: name in self.workers.running)
        return self.workers.running[name]

    async def render(self, clip: Clip) -> list[ClipEvent]:
        """Let workers do all that a clip needs, until it has ended."""
        events: list[ClipEvent] = []
        while not clip.gone:
            for running in list(self.workers.running.values()):
                finish(running)
            events += await self.step()
        return events


def finish(running: Running) -> None:
    mux = running.order.task.stage is Stage.MUX
    result = Made("0" * 64, 3, "video", "thumbnail", "sprites") if mux else running.order.task.key
    if not running.end.done():
        running.end.set_result(result)


def fail(running: Running, fault: Fault = Fault.ERROR, why: str = "it broke") -> None:
    running.end.set_exception(TaskError(fault, why))


def die(core: Core, name: str) -> None:
    """As Ray tells it: the pool reports it, and the worker's task fails."""
    core.workers.places.pop(name)
    core.inbox.put(WorkerLeft(name, "killed"))
    if name in core.workers.running:
        fail(core.workers.running[name], Fault.LOST, "its actor died")


def run(store: Path | LocalStore, test: Callable[[Core], Awaitable[None]], **max_gpus: int) -> Core:
    """Run a test with the parts around rendering; see `in_loop`."""
    return in_loop(lambda: Core(store, **max_gpus), test)
