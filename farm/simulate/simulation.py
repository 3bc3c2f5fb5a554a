"""The farm's own scheduler on a simulated clock, with random jobs, faults and losses of GPUs."""

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from farm.model.plan import Kind, Stage, plan
from farm.model.request import RenderRequest
from farm.scheduling.placement import Node, place_workers
from farm.scheduling.scheduler import Scheduler
from farm.scheduling.state import Assignment, Fault, Run, Urgency
from farm.simulate.report import PRIORITIES, TENANTS, Report
from svd_engine.params import RenderDefaults, RenderParams

T = TypeVar("T")
SEGMENT = 5
# Seconds of a denoising step, and of the other stages for a whole clip; about those of an A100.
SECONDS = {Stage.ENCODE: 0.3, Stage.DENOISE: 0.8, Stage.DECODE: 1.8, Stage.MUX: 0.4}
SPREAD = 0.15  # the standard deviation of the logarithm of a task's time
DISPATCH_S = 0.005  # the total delay before a task starts and after it ends
LOAD = 1.3  # the work that arrives, divided by what the farm can do in that time
P_ERROR, P_LOST = 0.004, 0.001  # the probabilities that a task fails, and that its worker dies
PREEMPTED_S = 7200.0  # the mean time until a GPU is taken away
BACK_S = (60.0, 300.0)  # the least and the most time until it comes back
LOADING_S = 20.0  # how long a worker loads before its first task
SAMPLES = 400  # points in the plot


class Simulation:
    """One run of the scheduler with random events. An event returns how many jobs it has ended."""

    def __init__(self, gpus: int, jobs: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self._scheduler = Scheduler[Run]()
        self._tasks = tuple(plan(_request(), SEGMENT))
        self._events: list[tuple[float, int, Callable[[float, Any], int], Any]] = []
        self._number = 0
        self._queued: Counter[str] = Counter()  # jobs that have not started, by tenant
        self._youngest = dict.fromkeys(TENANTS, 0.0)  # submission time of the youngest started job
        self._there: dict[str, Kind] = {}  # the present workers, including those that load
        self._counts: Counter[Kind] = Counter()
        self._busy: Counter[Kind] = Counter()
        self.report = Report(gpus, jobs)
        slots = place_workers([Node("node", gpus, 1.0)])
        for number, slot in enumerate(slots):
            self._give(f"{slot.kind}-{number}", slot.kind)
            self._scheduler.join(f"{slot.kind}-{number}", slot.kind)
        renderers = self._counts[Kind.RENDERER]
        clip = SECONDS[Stage.ENCODE] + 25 * SECONDS[Stage.DENOISE]
        self._span = jobs * clip / max(1, renderers) / LOAD  # the time in which all jobs arrive
        for number in range(jobs):
            self._at(self._chance.uniform(0, self._span), self._arrive, number)

    def run(self) -> Report:
        """Simulate until every job is done or has failed."""
        began, clock, left = time.perf_counter(), 0.0, self.report.jobs
        every = self._span / SAMPLES
        while left:
            now, _, event, what = heapq.heappop(self._events)
            self._count(now - clock, now, every)
            clock = now
            left -= event(now, what)
            for assignment in self._scheduler.assign(now):
                self._begin(assignment, now)
        self.report.real_s = time.perf_counter() - began
        self.report.simulated_s = clock
        return self.report

    def _begin(self, assignment: Assignment[Run], now: float) -> None:
        run, task = assignment.run, assignment.task
        self.report.decisions += 1
        self._busy[task.kind] += 1
        if task.stage is Stage.ENCODE and assignment.attempt == 1:
            self._first(run, now)
        elif task.stage is Stage.DENOISE and run.last_renderer not in ("", assignment.worker):
            self.report.resumed += 1
        steps = task.span[1] - task.span[0] if task.stage is Stage.DENOISE else 1
        seconds = steps * SECONDS[task.stage] * self._chance.lognormvariate(0, SPREAD)
        luck = self._chance.random()
        fault = Fault.LOST if luck < P_LOST else Fault.ERROR if luck < P_LOST + P_ERROR else None
        if fault:
            seconds *= self._chance.random()
        if self._scheduler.waits(task.kind):
            self.report.busy_s[task.kind] -= DISPATCH_S
        self.report.worked_s[run.urgency.tenant] += seconds
        self._at(now + seconds + DISPATCH_S, self._end, (assignment, fault))

    def _first(self, run: Run, now: float) -> None:
        """Note how long a job waited for its first task, and which younger jobs went first."""
        report, urgency = self.report, run.urgency
        tenant, priority, submitted = urgency.tenant, urgency.priority, urgency.submitted
        youngest = max(self._youngest[tenant], submitted)
        report.waits[tenant, priority].append(now - submitted)
        report.gave_way_s[priority] = max(report.gave_way_s[priority], youngest - submitted)
        self._youngest[tenant] = youngest
        self._queued[tenant] -= 1

    def _arrive(self, now: float, number: int) -> int:
        tenant = self._choose(TENANTS)
        urgency = Urgency(tenant, now, self._choose(PRIORITIES))
        run = Run(str(number), "svd-xt", urgency)
        self._queued[tenant] += 1
        self._scheduler.add(run, self._tasks)
        return 0

    def _end(self, now: float, what: tuple[Assignment[Run], Fault | None]) -> int:
        assignment, fault = what
        worker = self._scheduler.workers.get(assignment.worker)
        if worker is None or worker.task is not assignment:
            return 0  # the worker's GPU was taken away meanwhile
        self._busy[worker.kind] -= 1
        if fault is None:
            self._scheduler.finish(worker.name)
            if not assignment.run.done:
                return 0
            self._scheduler.withdraw(assignment.run)
            self.report.done += 1
            return 1
        over = self._fail(assignment, fault, now)
        if fault is Fault.LOST:
            self._scheduler.leave(worker.name)
            self._at(now + LOADING_S, self._loaded, worker.name)
        return over

    def _gone(self, now: float, name: str) -> int:
        """A GPU is taken away for a while."""
        worker, over = self._scheduler.workers.get(name), 0
        if worker is None:  # the worker is loading: try again later
            self._at(now + LOADING_S, self._gone, name)
            return 0
        if worker.task is not None:
            self._busy[worker.kind] -= 1
            over = self._fail(worker.task, Fault.LOST, now)
        self._scheduler.leave(name)
        self._counts[self._there.pop(name)] -= 1
        self.report.preempted += 1
        self._at(now + self._chance.uniform(*BACK_S), self._back, (name, worker.kind))
        return over

    def _back(self, now: float, what: tuple[str, Kind]) -> int:
        name, kind = what
        self._give(name, kind, now)
        self._at(now + LOADING_S, self._loaded, name)
        return 0

    def _loaded(self, _now: float, name: str) -> int:
        self._scheduler.join(name, self._there[name])
        return 0

    def _retry(self, _now: float, _what: None) -> int:
        return 0  # nothing to do, because `assign` is called after every event

    def _fail(self, assignment: Assignment[Run], fault: Fault, now: float) -> int:
        verdict = self._scheduler.fail(assignment.worker, fault, now)
        if verdict.retry_at is not None:
            self._at(verdict.retry_at, self._retry, None)
        if not verdict.failed:
            return 0
        self._scheduler.withdraw(assignment.run)
        self.report.failed += 1
        return 1

    def _give(self, name: str, kind: Kind, now: float = 0.0) -> None:
        self._there[name] = kind
        self._counts[kind] += 1
        self._at(now + self._chance.expovariate(1 / PREEMPTED_S), self._gone, name)

    def _at(self, when: float, event: Callable[[float, Any], int], what: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, event, what))

    def _choose(self, shares: dict[T, float]) -> T:
        return self._chance.choices(list(shares), list(shares.values()))[0]

    def _count(self, seconds: float, now: float, every: float) -> None:
        """Account for the time since the last event, during which nothing changed."""
        for kind in Kind:
            if self._scheduler.waits(kind):
                self.report.busy_s[kind] += seconds * self._busy[kind]
                self.report.there_s[kind] += seconds * self._counts[kind]
        if now >= len(self.report.samples) * every:
            share = sum(self._busy.values()) / max(1, sum(self._counts.values()))
            self.report.samples.append((now, share, dict(self._queued)))


def _request() -> RenderRequest:
    # One chunk per clip, so that workers do not share decodes.
    params = RenderParams(decode_chunk_size=25).resolve(RenderDefaults(num_frames=25))
    return RenderRequest(picture="0" * 64, weights="0" * 64, dtype="float16", params=params)


def decision_rate(tasks: int = 100_000) -> float:
    """Measure the scheduler's decisions per second with `tasks` tasks queued."""
    per_clip = tuple(plan(_request(), SEGMENT))
    scheduler = Scheduler[Run]()
    for number in range(tasks // len(per_clip)):
        run = Run(str(number), "svd-xt", Urgency(f"tenant-{number % 3}", float(number)))
        scheduler.add(run, per_clip)
    for number, slot in enumerate(place_workers([Node("node", 900, 1.0)])):
        scheduler.join(f"{slot.kind}-{number}", slot.kind)
    began, decisions = time.perf_counter(), 0
    while scheduler.runs:
        for assignment in list(scheduler.assign(0.0)):
            decisions += 1
            scheduler.finish(assignment.worker)
            if assignment.run.done:
                scheduler.withdraw(assignment.run)
    return decisions / (time.perf_counter() - began)
