"""`python -m farm.simulate`: run the farm's scheduler on a simulated clock and simulated GPUs.

Jobs of three tenants arrive faster than the farm can render them; tasks fail, workers die, and spot
GPUs are taken away and come back. Utilisation is the share of time that GPUs work, including those
that load a model, counted for each kind of worker while a ready task of that kind waits. Failed
work counts as work; the delay between a decision and its task does not.
"""

import heapq
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from farm.model.plan import Kind, Stage, plan
from farm.model.request import RenderRequest
from farm.scheduling.placement import Node, place_workers
from farm.scheduling.scheduler import Scheduler
from farm.scheduling.state import AGING_S, Assignment, Fault, Run, Urgency
from svd_engine.command_line import STATUSES, Parser, positive
from svd_engine.params import RenderDefaults, RenderParams

T = TypeVar("T")
SEGMENT = 5
# Seconds of a denoising step, and of the other stages for a whole clip; about those of an A100.
SECONDS = {Stage.ENCODE: 0.3, Stage.DENOISE: 0.8, Stage.DECODE: 1.8, Stage.MUX: 0.4}
SPREAD = 0.15  # the standard deviation of the logarithm of a task's time
DISPATCH_S = 0.005  # the total delay before a task starts and after it ends
TENANTS = {"large": 0.5, "middle": 0.35, "small": 0.15}  # shares of the jobs
PRIORITIES = {10: 0.3, 50: 0.5, 90: 0.2}
LOAD = 1.3  # the work that arrives, divided by what the farm can do in that time
P_ERROR, P_LOST = 0.004, 0.001  # the probabilities that a task fails, and that its worker dies
PREEMPTED_S = 7200.0  # the mean time until a GPU is taken away
BACK_S = (60.0, 300.0)  # the least and the most time until it comes back
LOADING_S = 20.0  # how long a worker loads before its first task
SAMPLES = 400  # points in the plot


@dataclass
class Report:
    """The results of a simulation. Times are in simulated seconds, except for real_s."""

    gpus: int
    jobs: int
    done: int = 0
    failed: int = 0
    decisions: int = 0
    real_s: float = 0.0
    simulated_s: float = 0.0
    preempted: int = 0
    resumed: int = 0  # how often a clip continued on another worker
    waits: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    gave_way_s: dict[int, float] = field(default_factory=lambda: dict.fromkeys(PRIORITIES, 0.0))
    busy_s: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(Kind, 0.0))
    there_s: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(Kind, 0.0))
    worked_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TENANTS, 0.0))
    samples: list[tuple[float, float, dict[str, int]]] = field(default_factory=list)

    @property
    def utilisation(self) -> float:
        """The share of time that all workers were busy while work waited for them."""
        return sum(self.busy_s.values()) / max(1e-9, sum(self.there_s.values()))

    def waits_of(self, one: str | int) -> list[float]:
        """The sorted waits until the first task, of a tenant's jobs or of a priority's."""
        return sorted(w for whose, waits in self.waits.items() if one in whose for w in waits)

    def lines(self) -> Iterator[str]:
        """The report as text, line by line."""
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
            yield _waits(f"priority {priority}", self.waits_of(priority)) + (
                f"   gave way to jobs up to {self.gave_way_s[priority]:,.0f} s younger;"
                f" aging allows {(max(PRIORITIES) - priority) * AGING_S:,.0f}"
            )
        for tenant in TENANTS:
            share = self.worked_s[tenant] / max(1e-9, sum(self.worked_s.values()))
            yield _waits(f"tenant {tenant}", self.waits_of(tenant)) + f"   {share:.1%} of the work"


def _waits(name: str, waits: Sequence[float]) -> str:
    waits = waits or [0.0]
    p50, p99 = statistics.median(waits), waits[int(0.99 * (len(waits) - 1))]
    return f"  {name:20} {p50:12.1f} {p99:8.1f} {waits[-1]:8.1f}"


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
        elif task.stage is Stage.DENOISE and run.home not in ("", assignment.worker):
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
        """A job's first task."""
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


def plot(report: Report, path: Path) -> None:
    """Draw a run: utilisation, waiting jobs, and waiting times."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(9, 10), layout="constrained")
    figure.suptitle(
        f"{report.gpus:,} GPUs, {report.jobs:,} jobs, {report.preempted:,} GPUs taken away:"
        f" {report.utilisation:.1%} at work while work waits"
    )
    times = [t for t, _, _ in report.samples]
    top.plot(times, [100 * share for _, share, _ in report.samples], color="#2a7f62")
    top.set(ylim=(0, 103), ylabel="GPUs at work, %", xlabel="simulated seconds")
    queues = ([q.get(t, 0) for _, _, q in report.samples] for t in TENANTS)
    middle.stackplot(times, *queues, labels=TENANTS, colors=("#33658a", "#86bbd8", "#f6ae2d"))
    middle.set(ylabel="jobs not begun", xlabel="simulated seconds")
    middle.legend(title="tenant", loc="upper left", frameon=False)
    for priority, color in zip(sorted(PRIORITIES), ("#33658a", "#f6ae2d", "#c8553d"), strict=True):
        waits = report.waits_of(priority)
        begun = [100 * (n + 1) / len(waits) for n in range(len(waits))]
        bottom.step([0, *waits], [0, *begun], where="post", color=color, label=priority)
    bottom.set(ylim=(0, 103), ylabel="jobs begun, %", xlabel="seconds since they were submitted")
    bottom.legend(title="priority", loc="lower right", frameon=False)
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the report, and draw it if asked to. Returns 0."""
    parser = Parser(
        "python -m farm.simulate",
        description="Run the farm's scheduler on a simulated clock and simulated GPUs.",
        epilog=STATUSES,
    )
    for name, default in (("--gpus", 10_000), ("--jobs", 200_000)):
        parser.add_argument(
            name, type=positive, default=default, metavar="N", help=f"(default: {default})"
        )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    parser.add_argument("--out", metavar="PNG", help="draw the run there (needs matplotlib)")
    options = parser.parse_args(arguments)
    if options.out and not find_spec("matplotlib"):
        parser.error("--out needs matplotlib: pip install matplotlib")
    if options.out and not Path(options.out).absolute().parent.is_dir():
        parser.error(f"--out: there is no folder {Path(options.out).parent}")
    report = Simulation(options.gpus, options.jobs, options.seed).run()
    print("\n".join(report.lines()))
    if options.out:
        plot(report, Path(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
