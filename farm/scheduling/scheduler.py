"""Which ready task goes to which worker, and why. Pure: times are passed in, nothing is awaited.

The tenant with the fewest busy workers is next, and of several with as few the one whose last turn
is longest ago. Within a tenant the highest priority is next; each minute of waiting is worth a
point of priority, so that no clip starves, and equals go first in, first out. A clip yields to a
more urgent one between two tasks, and thus between two segments of its denoising.
"""

import heapq
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Generic

from farm.model.plan import Kind, Task
from farm.recent import Recent
from farm.scheduling.state import (
    Assignment,
    Entry,
    Fault,
    R,
    Reason,
    Strikes,
    Urgency,
    Verdict,
    WorkerState,
    may_start,
)
from farm.scheduling.worker_choice import choose, choose_helpers

MAX_ATTEMPTS = 3  # of one task
MAX_STRIKES = 3  # different clips that a worker may fail in a row
MAX_REWINDS = 10  # of one clip whose results were lost
BACKOFF_S = 1.0  # before the second attempt; four times as long before each later one
STORE_BACKOFF_S = 5.0
TENANTS = 10_000  # whose last turns are remembered
NEAR = 32  # ready tasks of a clip at once; more are taken from its plan as these start


class Scheduler(Generic[R]):
    """The clips under way, the workers, and who does what."""

    def __init__(self, max_gpus: Mapping[str, int] | None = None) -> None:
        self.runs: dict[str, R] = {}
        self.workers: dict[str, WorkerState] = {}
        self.busy: Counter[str] = Counter()  # how many workers, by tenant
        self._max_gpus = max_gpus or {}
        self._turns = Recent[tuple[Kind, str], int](
            TENANTS
        )  # the number of each tenant's last task
        self._idle: dict[Kind, dict[Hashable, dict[str, None]]] = {kind: {} for kind in Kind}
        # Heaps by kind and tenant. An entry counts only as long as run.ready has its number: that
        # is how one is withdrawn from the middle of a heap.
        self._ready: dict[Kind, dict[str, list[Entry[R]]]] = {kind: {} for kind in Kind}
        self._later: list[tuple[float, int, R, Task]] = []  # a heap of tasks to retry
        self._delayed: set[int] = set()  # the numbers in it
        self._strikes = Strikes(MAX_STRIKES)
        self._number = 0

    # Runs

    def add(self, run: R, tasks: Iterable[Task]) -> None:
        """Add a clip with its remaining tasks, which are taken one by one as earlier ones start."""
        self._number += 1
        run.order = self._number
        self.runs[run.id] = run
        self._fill(run, tasks)

    def rewind(self, run: R, tasks: Iterable[Task]) -> bool:
        """Replace a clip's plan after results were lost; False if that happened too often."""
        run.rewinds += 1
        self._drop(run)
        self._fill(run, tasks)
        return run.rewinds <= MAX_REWINDS

    def withdraw(self, run: R) -> list[str]:
        """Remove a clip, and return the workers that still run its tasks."""
        run.gone, run.delayed = True, 0
        run.ready.clear()
        if self.runs.get(run.id) is run:
            del self.runs[run.id]
        return list(run.running)

    def set_urgency(self, run: R, urgency: Urgency) -> None:
        """Queue a clip's tasks, and count its workers, by a new urgency.

        While the clip is held, none of its tasks start; those that run continue.
        """
        if urgency == run.urgency:
            return
        self.busy[run.urgency.tenant] -= len(run.running)
        self.busy[urgency.tenant] += len(run.running)
        run.urgency = urgency
        if not urgency.held:
            self._requeue(run)

    # Workers

    def join(self, name: str, kind: Kind, memory: int | None = None) -> None:
        """Add a worker, which is idle. memory: bytes of its GPU that it may use."""
        self.workers[name] = worker = WorkerState(name, kind, memory)
        self._free(worker)

    def leave(self, name: str) -> None:
        """Remove a worker. If it has a task, call `fail` first."""
        worker = self.workers.pop(name)
        self._idle[worker.kind].get(worker.model, {}).pop(name, None)

    def drain(self, name: str, draining: bool) -> None:
        """Assign no more tasks to a worker, or assign it some again."""
        worker = self.workers[name]
        worker.draining = draining
        self._idle[worker.kind].get(worker.model, {}).pop(name, None)
        if not draining and worker.task is None:
            self._free(worker)

    # Decisions

    def assign(self, now: float) -> Iterator[Assignment[R]]:
        """Assign ready tasks to idle workers, one by one, until either run out."""
        while self._later and self._later[0][0] <= now:
            _, number, run, task = heapq.heappop(self._later)
            self._delayed.remove(number)
            if run.ready.get(task.key, (0,))[0] == number:
                run.delayed -= 1
                self._make_ready(run, task)
        for kind in Kind:
            waiting: list[Entry[R]] = []  # tasks that wait for a worker that is busy
            try:
                while any(self._idle[kind].values()) and (entry := self._pop(kind)):
                    placed = choose(entry[3], entry[4], self._idle[kind], self.workers)
                    if placed is None:
                        waiting.append(entry)
                    else:
                        yield self._start(entry[3], entry[4], *placed, now)
            finally:  # also if the caller stops early
                for entry in waiting:
                    self._push(kind, entry)

    def waits(self, kind: Kind) -> bool:
        """Whether ready tasks still wait for a worker of that kind after `assign`."""
        return any(self._ready[kind].values())

    def next_retry(self) -> float | None:
        """When the next retry is due; None if there is none."""
        return self._later[0][0] if self._later else None

    def finish(self, name: str) -> Assignment[R]:
        """Complete a worker's task: the tasks that need its result may start."""
        assignment, current = self._release(name)
        for member in assignment.members:
            self._strikes.clear(member)
        run, task = assignment.run, assignment.task
        if current:
            del run.attempts[task.key]  # if its result is lost, attempts are counted anew
            run.unfinished.discard(task.key)
            if task.kind is Kind.RENDERER:
                run.last_renderer = name
            self._unfold(run)
        return assignment

    def is_current(self, assignment: Assignment[R]) -> bool:
        """Whether the clip still needs this attempt. The result of a stale one is discarded."""
        run = assignment.run
        at_work = run.running.get(assignment.worker) is assignment
        return at_work and not run.gone and assignment.number > run.stale_up_to

    def fail(self, name: str, fault: Fault, now: float) -> Verdict:
        """End a worker's failed attempt: the task is retried, or the clip fails."""
        assignment, current = self._release(name)
        run, task = assignment.run, assignment.task
        restart = fault in (Fault.ERROR, Fault.LOST) and self._strikes.add(name, run.id)
        if not current:
            return Verdict(failed=False, restart_worker=restart)
        tries = run.attempts[task.key]
        if fault in (Fault.STORE, Fault.STOPPED, Fault.STALE):
            run.attempts[task.key] -= 1
            if fault is Fault.STALE:  # the caller calls `rewind`
                self._drop(run)
                return Verdict(failed=False)
            at = now + (STORE_BACKOFF_S if fault is Fault.STORE else 0)
        elif fault is Fault.MEMORY and task.key not in run.low_memory and tries < MAX_ATTEMPTS:
            run.low_memory.add(task.key)
            at = now
        elif fault in (Fault.ERROR, Fault.LOST, Fault.GANG) and tries < MAX_ATTEMPTS:
            if fault is Fault.GANG:
                run.unshared.add(task.key)
            else:
                run.avoid.setdefault(task.key, set()).add(name)
            at = now + BACKOFF_S * 4 ** (tries - 1)
        else:
            return Verdict(failed=True, restart_worker=restart)
        self._number += 1
        run.ready[task.key] = (self._number, task)
        heapq.heappush(self._later, (at, self._number, run, task))
        self._delayed.add(self._number)
        run.delayed += 1
        self._unfold(run)
        return Verdict(failed=False, retry_at=at, restart_worker=restart)

    # Internals

    def _fill(self, run: R, tasks: Iterable[Task]) -> None:
        run.plan, run.next = iter(tasks), None
        run.unfinished.clear()
        self._unfold(run)

    def _unfold(self, run: R) -> None:
        """Take tasks from a clip's plan while they can start, and NEAR at most: it may be long."""
        while len(run.ready) - run.delayed < NEAR:
            task = run.next = run.next or next(run.plan, None)
            if task is None or not run.unfinished.isdisjoint(task.needs):
                return
            run.next = None
            run.unfinished.add(task.key)
            self._make_ready(run, task)

    def _drop(self, run: R) -> None:
        """Unqueue a clip's tasks. Attempts under way become stale, and are not counted."""
        current = filter(self.is_current, run.running.values())
        run.attempts.subtract(assignment.task.key for assignment in current)
        run.ready.clear()
        run.delayed = 0
        run.stale_up_to = self._number

    def _make_ready(self, run: R, task: Task) -> None:
        self._number += 1
        run.ready[task.key] = (self._number, task)
        self._push(task.kind, (run.urgency.rank, run.order, self._number, run, task))

    def _push(self, kind: Kind, entry: Entry[R]) -> None:
        heapq.heappush(self._ready[kind].setdefault(entry[3].urgency.tenant, []), entry)

    def _requeue(self, run: R) -> None:
        for number, task in list(run.ready.values()):
            if number not in self._delayed:
                self._make_ready(run, task)

    def _pop(self, kind: Kind) -> Entry[R] | None:
        """Take the next task: the lowest rank of the tenant that is next."""
        best: list[Entry[R]] | None = None
        least = (0, 0, 0.0)
        idle = ""
        for tenant, heap in self._ready[kind].items():
            while heap and not may_start(heap[0]):
                heapq.heappop(heap)
            if not heap:
                idle = tenant
                continue
            busy = self.busy[tenant]
            if busy < self._max_gpus.get(tenant, busy + 1):
                # By rank alone, a tenant's backlog would come before whoever comes later.
                key = (busy, self._turns.get((kind, tenant), 0), heap[0][0])
                if best is None or key < least:
                    best, least = heap, key
        if idle:  # drop the heap of a tenant that has no tasks, one for each call
            del self._ready[kind][idle]
        return heapq.heappop(best) if best else None

    def _start(self, run: R, task: Task, name: str, reason: Reason, now: float) -> Assignment[R]:
        del run.ready[task.key]
        self._unfold(run)
        run.attempts[task.key] += 1
        self._number += 1
        self._turns[task.kind, run.urgency.tenant] = self._number
        assignment = Assignment(
            name,
            run,
            task,
            self._number,
            run.attempts[task.key],
            task.key in run.low_memory,
            reason,
            self._helpers(run, task, name),
            progressed_at=now,
        )
        for member in assignment.members:
            worker = self.workers[member]
            del self._idle[worker.kind][worker.model][member]
            run.running[member] = worker.task = assignment
            worker.model = run.model
            self.busy[run.urgency.tenant] += 1
        return assignment

    def _helpers(self, run: R, task: Task, name: str) -> tuple[str, ...]:
        entries = (entry for heap in self._ready[task.kind].values() for entry in heap)
        busy = self.busy[run.urgency.tenant] + 1
        allowed = self._max_gpus.get(run.urgency.tenant, len(self.workers)) - busy
        if allowed <= 0 or any(map(may_start, entries)):
            return ()  # idle workers are about to get tasks of their own
        return choose_helpers(run, task, name, self._idle[task.kind], self.workers, allowed)

    def _release(self, name: str) -> tuple[Assignment[R], bool]:
        """Free all workers of a task; returns its assignment, and whether it was current."""
        assignment = self.workers[name].task
        assert assignment is not None, f"{name} has no task"
        current = self.is_current(assignment)
        for member in assignment.members:
            worker = self.workers[member]
            worker.task = None
            del assignment.run.running[member]
            self.busy[assignment.run.urgency.tenant] -= 1
            if not worker.draining:
                self._free(worker)
        return assignment, current

    def _free(self, worker: WorkerState) -> None:
        self._idle[worker.kind].setdefault(worker.model, {})[worker.name] = None
