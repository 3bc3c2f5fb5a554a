"""A model of the farm that is as simple as possible, to compare the scheduler with."""

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

from farm.model.plan import Kind, Task
from farm.model.request import RenderRequest
from farm.scheduling.scheduler import MAX_ATTEMPTS, MAX_STRIKES, Scheduler
from farm.scheduling.state import Assignment, Fault, Run, Verdict

CAPS = {"capped": 2}


@dataclass(eq=False)
class Clip:
    """What the model knows of a clip."""

    run: Run
    request: RenderRequest
    segment: int
    number: int
    tasks: dict[str, Task]
    done: set[str] = field(default_factory=set)
    under_way: dict[str, Assignment[Run]] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)  # of tasks to be tried again
    failures: Counter[str] = field(default_factory=Counter)
    avoid: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    low_memory: set[str] = field(default_factory=set)
    unshared: set[str] = field(default_factory=set)
    last_renderer: str = ""
    stale: bool = False  # whether its results are lost, and it was not rewound yet
    rewinds: int = 0

    @property
    def place(self) -> tuple[float, int]:
        """Among its tenant's clips: a point of priority is worth a minute, then first come."""
        urgency = self.run.urgency
        return urgency.submitted - 60 * urgency.priority, self.number

    def ready(self, kind: Kind, now: float) -> list[Task]:
        if self.run.urgency.held or self.stale:
            return []
        return [
            task
            for key, task in self.tasks.items()
            if task.kind is kind and key not in self.done and key not in self.under_way
            if self.due.get(key, now) <= now
            if {need for need in task.needs if need in self.tasks} <= self.done
        ]


@dataclass(eq=False)
class Own:
    """What the model knows of a worker."""

    kind: Kind
    model: Hashable = None
    draining: bool = False
    task: Assignment[Run] | None = None


class FarmModel:
    """Clips and workers, and the decisions that the scheduler should make about them."""

    def __init__(self) -> None:
        self.scheduler = Scheduler[Run](CAPS)
        self.now = 0.0
        self.count = 0
        self.clips: dict[str, Clip] = {}
        self.workers: dict[str, Own] = {}
        self.strikes: defaultdict[str, set[str]] = defaultdict(set)
        self.turns: Counter[tuple[Kind, str]] = Counter()  # when each tenant was last served
        self.decisions = 0

    def turn(self, tenant: str, kind: Kind) -> tuple[int, int]:
        """Whose turn it is: of the tenant for which this is the least."""
        return self.busy()[tenant], self.turns[kind, tenant]

    def ready(self, kind: Kind) -> list[tuple[Clip, Task]]:
        return [(c, task) for c in self.clips.values() for task in c.ready(kind, self.now)]

    def at_work(self) -> list[str]:
        return [name for name, own in self.workers.items() if own.task is not None]

    def busy(self) -> Counter[str]:
        return Counter(own.task.run.urgency.tenant for own in self.workers.values() if own.task)

    def able(self, kind: Kind) -> set[str]:
        """Workers that may get tasks, now or after their current one."""
        workers = self.workers.items()
        return {name for name, own in workers if own.kind is kind and not own.draining}

    def idle(self, kind: Kind) -> set[str]:
        return self.able(kind) - set(self.at_work())

    def clip(self, pick: int) -> Clip:
        return list(self.clips.values())[pick % len(self.clips)]

    def forget(self, clip: Clip) -> None:
        at_it = {n for n, own in self.workers.items() if own.task and own.task.run is clip.run}
        assert set(self.scheduler.withdraw(clip.run)) == at_it
        del self.clips[clip.run.id]

    def carry_out(self, decision: Assignment[Run]) -> None:
        clip = self.clips[decision.run.id]
        self.decisions += 1
        self.turns[decision.task.kind, clip.run.urgency.tenant] = self.decisions
        clip.due.pop(decision.task.key, None)
        clip.under_way[decision.task.key] = decision
        for name in decision.members:
            self.workers[name].task = decision
            self.workers[name].model = clip.run.model

    def free(self, name: str) -> tuple[Assignment[Run], Clip | None]:
        """Take a worker's task from all who share it; the clip, where it waits for that."""
        decision = self.workers[name].task
        assert decision is not None
        for member in decision.members:
            self.workers[member].task = None
        clip = self.clips.get(decision.run.id)
        current = clip is not None and clip.under_way.get(decision.task.key) is decision
        assert self.scheduler.is_current(decision) == current
        if clip is None or not current:
            return decision, None
        del clip.under_way[decision.task.key]
        return decision, clip

    def finish_one(self, name: str) -> None:
        decision, clip = self.free(name)
        assert self.scheduler.finish(name) is decision
        for member in decision.members:
            self.strikes.pop(member, None)
        if clip is not None:
            task = decision.task
            clip.done.add(task.key)
            del clip.failures[task.key]
            clip.last_renderer = name if task.kind is Kind.RENDERER else clip.last_renderer
            if clip.done == set(clip.tasks):
                assert clip.run.done
                self.forget(clip)

    def judge(self, name: str, fault: Fault) -> None:
        decision, clip = self.free(name)
        aside = False
        if fault in (Fault.ERROR, Fault.LOST):
            self.strikes[name].add(decision.run.id)
            aside = len(self.strikes[name]) == MAX_STRIKES
        if aside:
            del self.strikes[name]
        due = self.judge_task(clip, decision.task.key, name, fault) if clip else None
        failed = clip is not None and not clip.stale and due is None
        assert self.scheduler.fail(name, fault, self.now) == Verdict(failed, due, aside)
        if clip is not None and failed:
            self.forget(clip)

    def judge_task(self, clip: Clip, key: str, name: str, fault: Fault) -> float | None:
        """When to retry the task; None for never."""
        delay = {Fault.STORE: 5.0, Fault.STOPPED: 0.0}.get(fault)
        if fault is Fault.STALE:
            clip.stale = True
            clip.under_way.clear()
            clip.due.clear()
        elif fault in (Fault.ERROR, Fault.LOST, Fault.MEMORY, Fault.GANG):
            clip.failures[key] += 1
            if clip.failures[key] < MAX_ATTEMPTS:
                if fault is not Fault.MEMORY:
                    (clip.unshared.add(key) if fault is Fault.GANG else clip.avoid[key].add(name))
                    delay = {1: 1.0, 2: 4.0}[clip.failures[key]]
                elif key not in clip.low_memory:
                    clip.low_memory.add(key)
                    delay = 0.0
        if delay is None:
            return None
        clip.due[key] = self.now + delay
        return clip.due[key]
