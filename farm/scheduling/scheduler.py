"""Which ready task goes to which worker, and why. Pure: the clock is passed in, nothing is awaited.

Between tenants: the one with the fewest workers at work is next. Within a tenant: by priority, and
each minute of waiting counts as a point of it, so nothing starves; first in, first out within one.
A clip gives way to a better one between two tasks, and so between two segments of its denoising.
"""

import heapq
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping

from farm.model.plan import Kind, Task
from farm.scheduling.state import Assignment, Entry, Fault, Reason, Run, Verdict, Worker, counts
from farm.scheduling.worker_choice import choose, choose_helpers

MAX_ATTEMPTS = 3  # of one task
MAX_STRIKES = 3  # different clips that a worker may fail in a row
MAX_REWINDS = 10  # of one clip whose results were lost
BACKOFF_S = 1.0  # before the second attempt; then four times as long
STORE_BACKOFF_S = 5.0
NEAR = 32  # tasks of a clip that are ready and wait for a worker; its plan is drawn on after them


class Scheduler:
    """Runs, workers, and the tasks between them."""

    def __init__(self, max_gpus: Mapping[str, int] | None = None) -> None:
        self.runs: dict[str, Run] = {}
        self.workers: dict[str, Worker] = {}
        self.busy: Counter[str] = Counter()  # workers, by tenant
        self._max_gpus = max_gpus or {}
        self._idle: dict[Kind, dict[Hashable, dict[str, None]]] = {kind: {} for kind in Kind}
        # By kind and tenant, heaps of (rank, order, number, run, task). An entry counts as long as
        # its number is the one in run.ready: that is how one is taken back from the middle.
        self._ready: dict[Kind, dict[str, list[Entry]]] = {kind: {} for kind in Kind}
        self._later: list[tuple[float, int, Run, Task]] = []
        self._delayed: set[int] = set()  # the numbers in it
        self._strikes: dict[str, set[str]] = {}
        self._number = 0

    # Runs

    def add(self, run: Run, tasks: Iterable[Task]) -> None:
        """Take a clip on, with the tasks it still needs; they are drawn as they come near."""
        self._number += 1
        run.order = self._number
        self.runs[run.id] = run
        self._fill(run, tasks)

    def rewind(self, run: Run, tasks: Iterable[Task]) -> bool:
        """Plan a clip anew, after results were lost; False where it was done too often."""
        run.rewinds += 1
        self._drop(run)
        self._fill(run, tasks)
        return run.rewinds <= MAX_REWINDS

    def withdraw(self, run: Run) -> list[str]:
        """Forget a clip; the workers that are still at it."""
        run.gone, run.delayed = True, 0
        run.ready.clear()
        self.runs.pop(run.id, None)
        return list(run.running)

    def hold(self, run: Run, held: bool) -> None:
        """Start none of its tasks until it is let go; those that run go on."""
        run.held = held
        if not held:
            self._requeue(run)

    def set_priority(self, run: Run, priority: int) -> None:
        run.priority = priority
        self._requeue(run)

    def give(self, run: Run, tenant: str, submitted: float) -> None:
        """Let a clip be another tenant's: its tasks queue, and its workers count, as that one's."""
        self.busy[run.tenant] -= len(run.running)
        self.busy[tenant] += len(run.running)
        run.tenant, run.submitted = tenant, submitted
        self._requeue(run)

    # Workers

    def join(self, name: str, kind: Kind, memory: int | None = None) -> None:
        """Count a worker in, idle. memory: bytes of a GPU."""
        self.workers[name] = worker = Worker(name, kind, memory)
        self._free(worker)

    def leave(self, name: str) -> None:
        """Count a worker out. Its task, if it has one, is for `fail` to judge first."""
        worker = self.workers.pop(name)
        self._idle[worker.kind].get(worker.model, {}).pop(name, None)

    def drain(self, name: str, draining: bool) -> None:
        """Give a worker no more tasks, or give it some again."""
        worker = self.workers[name]
        worker.draining = draining
        self._idle[worker.kind].get(worker.model, {}).pop(name, None)
        if not draining and worker.task is None:
            self._free(worker)

    # Decisions

    def assign(self, now: float) -> Iterator[Assignment]:
        """Give ready tasks to idle workers, one by one, until one or the other runs out."""
        while self._later and self._later[0][0] <= now:
            _, number, run, task = heapq.heappop(self._later)
            self._delayed.remove(number)
            if run.ready.get(task.key, (0,))[0] == number:
                run.delayed -= 1
                self._make_ready(run, task)
        for kind in Kind:
            waiting: list[Entry] = []  # for a worker that is busy now
            try:
                while any(self._idle[kind].values()) and (entry := self._pop(kind)):
                    placed = choose(entry[3], entry[4], self._idle[kind], self.workers)
                    if placed is None:
                        waiting.append(entry)
                    else:
                        yield self._start(entry[3], entry[4], *placed)
            finally:  # also where nobody asks on
                for entry in waiting:
                    heapq.heappush(self._ready[kind].setdefault(entry[3].tenant, []), entry)

    def waits(self, kind: Kind) -> bool:
        """Whether ready tasks wait for such a worker, after `assign`."""
        return any(self._ready[kind].values())

    def next_retry(self) -> float | None:
        """When a task that waits to be tried again is due."""
        return self._later[0][0] if self._later else None

    def finish(self, name: str) -> Assignment:
        """A worker's task is done: free the worker; what needed the result may start."""
        assignment, current = self._release(name)
        for member in assignment.members:
            self._strikes.pop(member, None)
        run, task = assignment.run, assignment.task
        if current:
            del run.attempts[task.key]  # if the result is lost, making it anew begins with 1
            run.unfinished.discard(task.key)
            if task.kind is Kind.RENDERER:
                run.home = name
            self._unfold(run)
        return assignment

    def is_current(self, assignment: Assignment) -> bool:
        """Whether the clip still waits for it: a stale attempt's result counts for nothing."""
        run = assignment.run
        at_work = run.running.get(assignment.worker) is assignment
        return at_work and not run.gone and assignment.number > run.since

    def fail(self, name: str, fault: Fault, now: float) -> Verdict:
        """A worker's task is not done: free who was at it, try it again or give the clip up."""
        assignment, current = self._release(name)
        run, task = assignment.run, assignment.task
        aside = fault in (Fault.ERROR, Fault.LOST) and self._strike(name, run.id)
        if not current:
            return Verdict(failed=False, set_aside=aside)
        tries = run.attempts[task.key]
        if fault in (Fault.STORE, Fault.STOPPED, Fault.STALE):
            run.attempts[task.key] -= 1
            if fault is Fault.STALE:  # it is for `rewind` to go on
                self._drop(run)
                return Verdict(failed=False)
            at = now + (STORE_BACKOFF_S if fault is Fault.STORE else 0)
        elif fault is Fault.MEMORY and task.key not in run.lean and tries < MAX_ATTEMPTS:
            run.lean.add(task.key)
            at = now
        elif fault in (Fault.ERROR, Fault.LOST, Fault.GANG) and tries < MAX_ATTEMPTS:
            if fault is Fault.GANG:
                run.alone.add(task.key)
            else:
                run.avoid.setdefault(task.key, set()).add(name)
            at = now + BACKOFF_S * 4 ** (tries - 1)
        else:
            return Verdict(failed=True, set_aside=aside)
        self._number += 1
        run.ready[task.key] = (self._number, task)
        heapq.heappush(self._later, (at, self._number, run, task))
        self._delayed.add(self._number)
        run.delayed += 1
        self._unfold(run)
        return Verdict(failed=False, retry_at=at, set_aside=aside)

    # The inside

    def _fill(self, run: Run, tasks: Iterable[Task]) -> None:
        run.plan, run.next = iter(tasks), None
        run.unfinished.clear()
        self._unfold(run)

    def _unfold(self, run: Run) -> None:
        """Make ready what a clip can do next. What is far is not drawn: a plan may be long."""
        while len(run.ready) - run.delayed < NEAR:
            task = run.next = run.next or next(run.plan, None)
            if task is None or not run.unfinished.isdisjoint(task.needs):
                return
            run.next = None
            run.unfinished.add(task.key)
            self._make_ready(run, task)

    def _drop(self, run: Run) -> None:
        """Start none of a clip's tasks; what is under way is of no use, and was no attempt."""
        current = filter(self.is_current, run.running.values())
        run.attempts.subtract(assignment.task.key for assignment in current)
        run.ready.clear()
        run.delayed = 0
        run.since = self._number

    def _make_ready(self, run: Run, task: Task) -> None:
        self._number += 1
        run.ready[task.key] = (self._number, task)
        heap = self._ready[task.kind].setdefault(run.tenant, [])
        heapq.heappush(heap, (run.rank, run.order, self._number, run, task))

    def _requeue(self, run: Run) -> None:
        for number, task in list(run.ready.values()):
            if number not in self._delayed:
                self._make_ready(run, task)

    def _pop(self, kind: Kind) -> Entry | None:
        """The task to go next: of the tenant with the fewest workers, the one of least rank."""
        best: list[Entry] | None = None
        least = (0, 0.0)
        idle = ""
        for tenant, heap in self._ready[kind].items():
            while heap and not counts(heap[0]):
                heapq.heappop(heap)
            if not heap:
                idle = tenant
                continue
            busy = self.busy[tenant]
            if busy < self._max_gpus.get(tenant, busy + 1):
                key = (busy, heap[0][0])
                if best is None or key < least:
                    best, least = heap, key
        if idle:  # one at a time, so that tenants of the past cost nothing
            del self._ready[kind][idle]
        return heapq.heappop(best) if best else None

    def _start(self, run: Run, task: Task, name: str, reason: Reason) -> Assignment:
        del run.ready[task.key]
        self._unfold(run)
        run.attempts[task.key] += 1
        self._number += 1
        assignment = Assignment(
            name,
            run,
            task,
            self._number,
            run.attempts[task.key],
            task.key in run.lean,
            reason,
            self._helpers(run, task, name),
        )
        for member in assignment.members:
            worker = self.workers[member]
            del self._idle[worker.kind][worker.model][member]
            run.running[member] = worker.task = assignment
            worker.model = run.model
            self.busy[run.tenant] += 1
        return assignment

    def _helpers(self, run: Run, task: Task, name: str) -> tuple[str, ...]:
        entries = (entry for heap in self._ready[task.kind].values() for entry in heap)
        busy = self.busy[run.tenant] + 1
        allowed = self._max_gpus.get(run.tenant, len(self.workers)) - busy
        if allowed <= 0 or any(map(counts, entries)):
            return ()  # those that are idle have something of their own
        return choose_helpers(run, task, name, self._idle[task.kind], self.workers, allowed)

    def _release(self, name: str) -> tuple[Assignment, bool]:
        """Free who is at a worker's task: what it was, and whether the clip still waits for it."""
        assignment = self.workers[name].task
        assert assignment is not None, f"{name} has no task"
        current = self.is_current(assignment)
        for member in assignment.members:
            worker = self.workers[member]
            worker.task = None
            del assignment.run.running[member]
            self.busy[assignment.run.tenant] -= 1
            if not worker.draining:
                self._free(worker)
        return assignment, current

    def _free(self, worker: Worker) -> None:
        self._idle[worker.kind].setdefault(worker.model, {})[worker.name] = None

    def _strike(self, name: str, run: str) -> bool:
        strikes = self._strikes.setdefault(name, set())
        strikes.add(run)
        if len(strikes) < MAX_STRIKES:
            return False
        del self._strikes[name]
        return True
