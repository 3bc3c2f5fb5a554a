"""`python -m farm.simulate`: the farm's own scheduler, on a simulated clock and simulated GPUs.

Jobs of three tenants arrive faster than the farm can render; tasks fail, workers die, and spot
GPUs are taken away and come back. Utilisation is busy time over the time of all GPUs that are
there, loading ones too, counted for each kind of worker while a ready task of that kind waits.
"""

import argparse
import heapq
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from farm.placement import Node, place_workers
from farm.plan import Kind, Stage, plan
from farm.request import RenderRequest
from farm.run import Assignment, Fault, Run
from farm.scheduler import Scheduler
from svd_engine.params import RenderParams

T = TypeVar("T")
SEGMENT = 5
# Seconds of a task: of a step, and of a whole clip's other stages; about an A100's.
SECONDS = {Stage.ENCODE: 0.3, Stage.DENOISE: 0.8, Stage.DECODE: 1.8, Stage.MUX: 0.4}
SPREAD = 0.15  # of the logarithm of a task's time
DISPATCH_S = 0.005  # from a decision to the work, and from its end to the news of it
TENANTS = {"large": 0.6, "middle": 0.3, "small": 0.1}  # shares of the jobs
PRIORITIES = {10: 0.3, 50: 0.5, 90: 0.2}
LOAD = 1.3  # work that arrives, over what can be done meanwhile
P_ERROR, P_LOST = 0.004, 0.001  # of a task
PREEMPTED_S = 7200.0  # mean time until a GPU is taken away
BACK_S = (60.0, 300.0)  # until it is given back
LOADING_S = 20.0  # of a worker, before its first task
SAMPLES = 400  # of the plot


@dataclass
class Report:
    """What came of it. Times are simulated seconds, unless it says real."""

    gpus: int
    jobs: int
    done: int = 0
    failed: int = 0
    decisions: int = 0
    real_s: float = 0.0
    simulated_s: float = 0.0
    preempted: int = 0
    resumed: int = 0  # clips that gave way to a better one, or lost their worker, and went on
    waits: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    busy_s: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(Kind, 0.0))
    there_s: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(Kind, 0.0))
    samples: list[tuple[float, float, dict[str, int]]] = field(default_factory=list)

    @property
    def utilisation(self) -> float:
        """Busy over available time, of all workers, while work waited for them."""
        return sum(self.busy_s.values()) / max(1e-9, sum(self.there_s.values()))

    def of_priority(self, priority: int) -> list[float]:
        """Waits until the first task, sorted."""
        return sorted(w for (_, p), waits in self.waits.items() if p == priority for w in waits)

    def lines(self) -> Iterator[str]:
        """The report, for people."""
        yield f"{self.gpus:,} GPUs, {self.jobs:,} jobs: {self.done:,} done, {self.failed:,} failed"
        yield (
            f"{self.decisions:,} decisions in {self.real_s:.0f} s, with all of the simulation: "
            f"{self.decisions / self.real_s:,.0f} a second; {self.simulated_s:,.0f} s simulated"
        )
        yield f"{self.preempted:,} GPUs taken away; {self.resumed:,} times a clip moved and went on"
        for kind in Kind:
            share = self.busy_s[kind] / max(1e-9, self.there_s[kind])
            yield f"utilisation of {kind}s while work waits: {share:.2%}"
        yield f"utilisation while work waits: {self.utilisation:.2%}"
        yield "wait until the first task, s    p50      p99      max"
        for priority in sorted(PRIORITIES, reverse=True):
            yield _waits(f"priority {priority}", self.of_priority(priority))
        for tenant in TENANTS:
            waits = sorted(w for (t, _), each in self.waits.items() if t == tenant for w in each)
            yield _waits(f"tenant {tenant}", waits)


def _waits(name: str, waits: Sequence[float]) -> str:
    if not waits:
        return f"  {name:20} none"
    p50, p99 = statistics.median(waits), waits[int(0.99 * (len(waits) - 1))]
    return f"  {name:20} {p50:12.1f} {p99:8.1f} {waits[-1]:8.1f}"


class Simulation:
    """One run of the scheduler against chance."""

    def __init__(self, gpus: int, jobs: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self._scheduler = Scheduler()
        self._tasks = plan(_request(), SEGMENT)
        self._events: list[tuple[float, int, str, object]] = []
        self._number = 0
        self._queued: Counter[str] = Counter()  # jobs not begun, by tenant
        self._there: dict[str, Kind] = {}  # GPUs, loading ones too
        self._counts: Counter[Kind] = Counter()
        self._busy: Counter[Kind] = Counter()
        self.report = Report(gpus, jobs)
        slots = place_workers([Node("node", gpus, 1.0)])
        for number, slot in enumerate(slots):
            self._give(f"{slot.kind}-{number}", slot.kind)
            self._scheduler.join(f"{slot.kind}-{number}", slot.kind)
        renderers = self._counts[Kind.RENDERER]
        clip = SECONDS[Stage.ENCODE] + 25 * SECONDS[Stage.DENOISE]
        self._span = jobs * clip / max(1, renderers) / LOAD  # in which all jobs arrive
        for number in range(jobs):
            self._at(self._chance.uniform(0, self._span), "arrive", number)

    def run(self) -> Report:
        """Until every job is done or has failed."""
        began, clock, left = time.perf_counter(), 0.0, self.report.jobs
        every = self._span / SAMPLES
        while left:
            now, _, event, what = heapq.heappop(self._events)
            self._count(now - clock, now, every)
            clock = now
            left -= getattr(self, f"_{event}")(now, what)
            for assignment in self._scheduler.assign(now):
                self._begin(assignment, now)
        self.report.real_s = time.perf_counter() - began
        self.report.simulated_s = clock
        return self.report

    def _begin(self, assignment: Assignment, now: float) -> None:
        run, task = assignment.run, assignment.task
        self.report.decisions += 1
        self._busy[task.kind] += 1
        if task.stage is Stage.ENCODE and assignment.attempt == 1:
            priority = run.priority
            self.report.waits[run.tenant, priority].append(now - run.submitted)
            self._queued[run.tenant] -= 1
        elif task.stage is Stage.DENOISE and run.home not in ("", assignment.worker):
            self.report.resumed += 1
        steps = task.span[1] - task.span[0] if task.stage is Stage.DENOISE else 1
        seconds = steps * SECONDS[task.stage] * self._chance.lognormvariate(0, SPREAD)
        luck = self._chance.random()
        fault = Fault.LOST if luck < P_LOST else Fault.ERROR if luck < P_LOST + P_ERROR else None
        if fault:
            seconds *= self._chance.random()
        self._at(now + seconds + DISPATCH_S, "end", (assignment, fault))

    def _arrive(self, now: float, number: int) -> int:
        tenant = self._choose(TENANTS)
        run = Run(str(number), tenant, "svd-xt", now, self._choose(PRIORITIES))
        self._queued[tenant] += 1
        self._scheduler.add(run, self._tasks)
        return 0

    def _end(self, now: float, what: tuple[Assignment, Fault | None]) -> int:
        assignment, fault = what
        worker = self._scheduler.workers.get(assignment.worker)
        if worker is None or worker.task is not assignment:
            return 0  # its GPU was taken away
        self._busy[worker.kind] -= 1
        if fault is None:
            self._scheduler.finish(worker.name)
            if assignment.run.left:
                return 0
            self._scheduler.withdraw(assignment.run)
            self.report.done += 1
            return 1
        over = self._fail(assignment, fault, now)
        if fault is Fault.LOST:
            self._scheduler.leave(worker.name)
            self._at(now + LOADING_S, "loaded", worker.name)
        return over

    def _gone(self, now: float, name: str) -> int:
        """A GPU is taken away, for a while."""
        worker, over = self._scheduler.workers.get(name), 0
        if worker is None:  # it is loading: let it be
            self._at(now + LOADING_S, "gone", name)
            return 0
        if worker.task is not None:
            self._busy[worker.kind] -= 1
            over = self._fail(worker.task, Fault.LOST, now)
        self._scheduler.leave(name)
        self._counts[self._there.pop(name)] -= 1
        self.report.preempted += 1
        self._at(now + self._chance.uniform(*BACK_S), "back", (name, worker.kind))
        return over

    def _back(self, now: float, what: tuple[str, Kind]) -> int:
        name, kind = what
        self._give(name, kind, now)
        self._at(now + LOADING_S, "loaded", name)
        return 0

    def _loaded(self, _now: float, name: str) -> int:
        self._scheduler.join(name, self._there[name])
        return 0

    def _retry(self, _now: float, _what: None) -> int:
        return 0  # `assign` comes after every event

    def _fail(self, assignment: Assignment, fault: Fault, now: float) -> int:
        verdict = self._scheduler.fail(assignment.worker, fault, now)
        if verdict.retry_at is not None:
            self._at(verdict.retry_at, "retry", None)
        if not verdict.failed:
            return 0
        self._scheduler.withdraw(assignment.run)
        self.report.failed += 1
        return 1

    def _give(self, name: str, kind: Kind, now: float = 0.0) -> None:
        self._there[name] = kind
        self._counts[kind] += 1
        self._at(now + self._chance.expovariate(1 / PREEMPTED_S), "gone", name)

    def _at(self, when: float, event: str, what: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, event, what))

    def _choose(self, shares: dict[T, float]) -> T:
        return self._chance.choices(list(shares), list(shares.values()))[0]

    def _count(self, seconds: float, now: float, every: float) -> None:
        """Add up the time since the last event, in which nothing changed."""
        for kind in Kind:
            if self._scheduler.waits(kind):
                self.report.busy_s[kind] += seconds * self._busy[kind]
                self.report.there_s[kind] += seconds * self._counts[kind]
        if now >= len(self.report.samples) * every:
            share = sum(self._busy.values()) / max(1, sum(self._counts.values()))
            self.report.samples.append((now, share, dict(self._queued)))


def _request() -> RenderRequest:
    params = RenderParams(width=1024, height=576, num_frames=25)
    return RenderRequest(picture="0" * 64, weights="0" * 64, dtype="float16", params=params)


def decision_rate(tasks: int = 100_000) -> float:
    """Decisions a second of the scheduler alone, with so many tasks queued."""
    per_clip = plan(_request(), SEGMENT)
    scheduler = Scheduler()
    for number in range(tasks // len(per_clip)):
        run = Run(str(number), f"tenant-{number % 3}", "svd-xt", float(number))
        scheduler.add(run, per_clip)
    for number, slot in enumerate(place_workers([Node("node", 900, 1.0)])):
        scheduler.join(f"{slot.kind}-{number}", slot.kind)
    began, decisions = time.perf_counter(), 0
    while scheduler.runs:
        for assignment in list(scheduler.assign(0.0)):
            decisions += 1
            scheduler.finish(assignment.worker)
            if not assignment.run.left:
                scheduler.withdraw(assignment.run)
    return decisions / (time.perf_counter() - began)


def plot(report: Report, path: Path) -> None:
    """A picture of the run: utilisation, jobs that wait, and for how long."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(9, 10), layout="constrained")
    times = [t for t, _, _ in report.samples]
    top.plot(times, [100 * share for _, share, _ in report.samples], color="#2a6")
    top.set(ylim=(0, 102), ylabel="GPUs busy, %", xlabel="simulated seconds")
    top.set_title(
        f"{report.gpus:,} GPUs, {report.jobs:,} jobs, {report.preempted:,} preemptions: "
        f"{report.utilisation:.1%} busy while work waits"
    )
    middle.stackplot(
        times, *([q.get(t, 0) for _, _, q in report.samples] for t in TENANTS), labels=TENANTS
    )
    middle.set(ylabel="jobs that wait", xlabel="simulated seconds")
    middle.legend(title="tenant", loc="upper right")
    for priority in sorted(PRIORITIES, reverse=True):
        waits = report.of_priority(priority)
        bottom.plot(waits, [100 * (n + 1) / len(waits) for n in range(len(waits))], label=priority)
    bottom.set(ylabel="jobs begun, %", xlabel="after waiting so many simulated seconds")
    bottom.legend(title="priority", loc="lower right")
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the report, draw the picture."""
    parser = argparse.ArgumentParser(
        "python -m farm.simulate", description="The farm's scheduler on a simulated clock."
    )
    parser.add_argument("--gpus", type=int, default=10_000, metavar="N", help="(default: 10000)")
    parser.add_argument("--jobs", type=int, default=200_000, metavar="N", help="(default: 200000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of chance (default: 0)")
    parser.add_argument("--out", metavar="PNG", help="where to draw it (needs matplotlib)")
    options = parser.parse_args(arguments)
    if options.gpus < 1 or options.jobs < 1:
        parser.error("--gpus and --jobs must be 1 or more")
    report = Simulation(options.gpus, options.jobs, options.seed).run()
    print("\n".join(report.lines()))
    if options.out:
        plot(report, Path(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
