"""What is looked after as long as the coordinator lives: a worker in each slot, and time limits."""

import asyncio
import logging

from farm.clock import FarmClock
from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.sharing import Sharing
from farm.errors import JobError
from farm.model.job import TRANSITIONS, Event
from farm.model.plan import Kind
from farm.records.job_book import Book
from farm.scheduling.blocked import why_blocked
from farm.scheduling.placement import place_workers
from farm.scheduling.scheduler import Scheduler
from farm.settings import Settings
from farm.workers.cluster import live_nodes
from farm.workers.pool import Pool
from svd_engine.nearest import did_you_mean

log = logging.getLogger("farm")

NODES_S = 2.0  # between two looks at the cluster's nodes
LIMITS_S = 0.5  # between two looks at the time limits


class Upkeep:
    """Its loops run for ever."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        scheduler: Scheduler,
        dispatcher: Dispatcher,
        sharing: Sharing,
        book: Book,
        clock: FarmClock,
    ) -> None:
        self._settings, self._pool, self._scheduler = settings, pool, scheduler
        self._dispatcher, self._sharing, self._book = dispatcher, sharing, book
        self._placed = False  # whether it is known which workers there should be
        self._clock = clock
        self._drained: set[str] = set()  # by an operator; a worker started anew is so again

    def joined(self, name: str, kind: Kind, memory: int | None) -> None:
        """The pool has a new worker."""
        self._dispatcher.joined(name, kind, memory)
        if name in self._drained:
            self._scheduler.drain(name, True)

    def drain(self, worker: str, draining: bool) -> None:
        """Give a worker no more tasks, or some again. JobError: there is none of that name."""
        if worker not in self._scheduler.workers:
            there = sorted(self._scheduler.workers)
            near, known = did_you_mean(worker, there), ", ".join(there) or "none"
            raise JobError(f"there is no worker {worker!r}{near}; there are: {known}")
        (self._drained.add if draining else self._drained.discard)(worker)
        self._scheduler.drain(worker, draining)
        self._dispatcher.poke()

    async def keep_workers(self) -> None:
        """A worker in each slot the cluster has."""
        while True:
            try:
                nodes = await asyncio.to_thread(live_nodes)  # it waits for a GCS that is away
                slots = place_workers(nodes, self._settings.workers)
                for name in self._pool.keep(slots):
                    self._retire(name)
                self._placed = True
            except Exception:
                log.exception("cannot look after the workers")
            await asyncio.sleep(NODES_S)

    async def keep_limits(self) -> None:
        """Fail the jobs whose time is up, and take tasks from workers that hang."""
        while True:
            await asyncio.sleep(LIMITS_S)
            self._dispatcher.end_stalled(self._settings.stall_s, self._settings.load_s)
            self._sharing.block(self._why_blocked())
            for job in list(self._book.open.values()):
                due = job.due()
                if due and due[0] <= self._clock.now() and (job.state, Event.FAIL) in TRANSITIONS:
                    self._fail(job.id, due[1])

    def _why_blocked(self) -> str:
        if not self._placed:
            return ""
        troubles = self._pool.troubles
        return why_blocked(self._pool.slots, self._scheduler.workers, troubles, self._drained)

    def _fail(self, job: str, error: str) -> None:
        clips = self._sharing.part(job)
        spent = self._book.open[job].gpu_seconds + sum(clip.gpu_seconds for clip in clips)
        self._book.tell(job, Event.FAIL, error=error, gpu_seconds=spent)
        for clip in clips:
            self._dispatcher.cancel(clip)

    def _retire(self, name: str) -> None:
        """End a worker that has no slot any more, when its task is done."""
        worker = self._scheduler.workers.get(name)
        if worker is not None and worker.task is not None:
            self._scheduler.drain(name, True)
            return
        if worker is not None:
            self._scheduler.leave(name)
        self._drained.discard(name)  # a new worker may get its name
        self._pool.retire(name)
