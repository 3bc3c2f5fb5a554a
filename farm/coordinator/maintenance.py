"""Periodic work: keeping a worker in each slot of the cluster, and enforcing time limits."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from farm.clock import Clock
from farm.coordinator.clips import Clip
from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.sharing import Sharing
from farm.errors import JobError
from farm.model.job import TRANSITIONS, Event
from farm.records.job_book import JobBook
from farm.scheduling.blocked import why_blocked
from farm.scheduling.elastic import Elastic
from farm.scheduling.placement import Node, place_workers
from farm.scheduling.scheduler import Scheduler
from farm.settings import Settings
from farm.workers.protocol import Workers
from svd_engine.nearest import did_you_mean, in_sentences

log = logging.getLogger("farm")

NODES_S = 2.0  # between two looks at the cluster's nodes
LIMITS_S = 0.5  # between two checks of the time limits


class Maintenance:
    """Loops that run every few seconds for as long as the coordinator does."""

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        scheduler: Scheduler[Clip],
        dispatcher: Dispatcher,
        sharing: Sharing,
        book: JobBook,
        held: Callable[[], Mapping[str, str]],
        clock: Clock,
    ) -> None:
        """held: the tenants whose jobs have to wait now, and why."""
        self._settings, self._workers, self._scheduler = settings, workers, scheduler
        self._dispatcher, self._sharing, self._book = dispatcher, sharing, book
        self._held, self._clock = held, clock
        self._elastic = None
        if settings.elastic:
            self._elastic = Elastic(settings.idle_s, settings.workers, "GPU" in settings.elastic)
        self._asked: int | None = None  # units that Ray's autoscaler was asked for
        self._placed = False  # whether it is known which workers there should be

    def drain(self, worker: str, draining: bool) -> None:
        """Give a worker no more tasks, or some again. Raises JobError for an unknown name."""
        if worker not in self._scheduler.workers:
            there = sorted(self._scheduler.workers)
            near, known = did_you_mean(worker, there), ", ".join(there) or "none"
            raise JobError(
                in_sentences([f"Unknown worker {worker!r}{near}", f"There are: {known}"])
            )
        self._dispatcher.drain(worker, draining)

    async def keep_workers(self) -> None:
        """Place workers every NODES_S, because nodes may join and leave at any time."""
        while True:
            try:
                await self.place_workers()
            except Exception:
                log.exception("cannot place workers; trying again in %g s", NODES_S)
            await asyncio.sleep(NODES_S)

    async def place_workers(self) -> None:
        """Start a worker in each slot that the nodes have, and retire those without a slot."""
        nodes = await self._workers.nodes()
        leaving = {node.id for node in nodes if node.leaving}
        if self._elastic is not None:
            nodes = await self._follow_demand(self._elastic, nodes)
        slots = self._workers.slots
        spare = self._workers.keep(place_workers(nodes, self._settings.workers))
        for name in [*slots]:
            if name in spare:
                self._dispatcher.retire(name, hurry=slots[name].node in leaving)
            else:
                self._dispatcher.keep(name)
        self._placed = True

    async def _follow_demand(self, elastic: Elastic, nodes: Sequence[Node]) -> list[Node]:
        """Ask for as many nodes as the clips need, and return those that should have workers."""
        clips = self._clips_to_render()
        asked = elastic.to_ask_for(nodes, clips)
        if asked != self._asked:
            await self._workers.ask_for(self._settings.elastic, asked)
            self._asked = asked
        workers, slots = self._scheduler.workers, self._workers.slots
        busy = {slots[name].node for name, worker in workers.items() if worker.task}
        return elastic.choose(nodes, busy, clips, self._clock.monotonic())

    def _clips_to_render(self) -> int:
        """How many clips may be rendered at once, if there are workers for them."""
        clips = self._dispatcher.clips.values()
        tenants = Counter(clip.urgency.tenant for clip in clips if not clip.urgency.held)
        most = self._settings.max_gpus
        return sum(min(count, most.get(tenant, count)) for tenant, count in tenants.items())

    async def keep_limits(self) -> None:
        """Enforce the time limits every LIMITS_S."""
        while True:
            await asyncio.sleep(LIMITS_S)
            self.enforce_limits()

    def enforce_limits(self) -> None:
        """Fail jobs that are past a deadline, and take tasks from workers that hang."""
        self._dispatcher.end_stalled(self._settings.stall_s, self._settings.load_s)
        self._sharing.set_blocked(self._why_blocked())
        self._sharing.set_held(self._held())
        for job in list(self._book.open.values()):
            due = job.due()
            if due and due[0] <= self._clock.now() and (job.state, Event.FAIL) in TRANSITIONS:
                self._fail(job.id, due[1])

    def _why_blocked(self) -> str:
        if not self._placed:
            return ""
        slots, troubles = self._workers.slots, self._workers.troubles
        if self._elastic is not None and not slots:
            wanted = self._elastic.wanted(self._clips_to_render())
            return f"Ray's autoscaler is asked for {wanted} x {_text(self._settings.elastic)}"
        return why_blocked(slots, self._scheduler.workers, troubles, self._dispatcher.drained)

    def _fail(self, job: str, error: str) -> None:
        clips = self._sharing.withdraw(job)
        spent = self._book.open[job].gpu_seconds + sum(clip.gpu_seconds for clip in clips)
        self._book.transition(job, Event.FAIL, error=error, gpu_seconds=spent)
        for clip in clips:
            self._dispatcher.cancel(clip)


def _text(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
