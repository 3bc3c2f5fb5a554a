"""The scheduler's laws, whatever happens: a model of the farm beside it, as simple as can be."""

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from farm.plan import Kind, Stage, Task, plan
from farm.request import RenderRequest
from farm.run import Assignment, Fault, Reason, Run, Verdict
from farm.scheduler import MAX_ATTEMPTS, MAX_REWINDS, MAX_STRIKES, Scheduler
from tests.test_plan import request

TENANTS = ("one", "two", "capped")
CAPS = {"capped": 2}
PICK = st.integers(0, 1000)


@dataclass(eq=False)
class Clip:
    """What the model knows of a clip."""

    run: Run
    request: RenderRequest
    segment: int
    number: int
    tasks: dict[str, Task]
    done: set[str] = field(default_factory=set)
    under_way: dict[str, Assignment] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)  # of tasks to be tried again
    failures: Counter[str] = field(default_factory=Counter)
    avoid: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    lean: set[str] = field(default_factory=set)
    home: str = ""
    stale: bool = False  # its results are lost, and it is not rewound yet
    rewinds: int = 0

    @property
    def place(self) -> tuple[float, int]:
        """Among its tenant's clips: a point of priority is worth a minute, then first come."""
        return self.run.submitted - 60 * self.run.priority, self.number

    def ready(self, kind: Kind, now: float) -> list[Task]:
        if self.run.held or self.stale:
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
    task: Assignment | None = None


class Farm(RuleBasedStateMachine):
    """Clips, workers and faults at random; every decision is held against the laws."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(CAPS)
        self.now = 0.0
        self.count = 0
        self.clips: dict[str, Clip] = {}
        self.workers: dict[str, Own] = {}
        self.strikes: defaultdict[str, set[str]] = defaultdict(set)

    # What happens

    @initialize(renderers=st.integers(0, 3), decoders=st.integers(0, 2))
    def begin(self, renderers: int, decoders: int) -> None:
        for kind in [Kind.RENDERER] * renderers + [Kind.DECODER] * decoders:
            self.join(kind)

    @rule(
        tenant=st.sampled_from(TENANTS),
        model=st.sampled_from("ab"),
        priority=st.integers(0, 100),
        frames=st.integers(1, 5),
        chunk=st.none() | st.integers(1, 3),
        steps=st.integers(1, 5),
        segment=st.integers(1, 3),
        done=st.sampled_from((0, 0, 0, 1, 5)),
    )
    def add(
        self,
        tenant: str,
        model: str,
        priority: int,
        frames: int,
        chunk: int | None,
        steps: int,
        segment: int,
        done: int,
    ) -> None:
        self.count += 1
        asked = request(num_frames=frames, decode_chunk_size=chunk, num_inference_steps=steps)
        run = Run(f"clip-{self.count}", tenant, model, self.now, priority)
        tasks = plan(asked, segment, min(done, steps))
        self.clips[run.id] = Clip(run, asked, segment, self.count, {t.key: t for t in tasks})
        self.scheduler.add(run, tasks)

    @rule(kind=st.sampled_from(Kind))
    def join(self, kind: Kind) -> None:
        self.count += 1
        self.workers[f"{kind}-{self.count}"] = Own(kind)
        self.scheduler.join(f"{kind}-{self.count}", kind)

    @precondition(lambda self: self.workers)
    @rule(pick=PICK)
    def leave(self, pick: int) -> None:
        name = list(self.workers)[pick % len(self.workers)]
        if self.workers[name].task is not None:
            self.judge(name, Fault.LOST)
        self.scheduler.leave(name)
        del self.workers[name]

    @precondition(lambda self: self.workers)
    @rule(pick=PICK, draining=st.booleans())
    def drain(self, pick: int, draining: bool) -> None:
        name = list(self.workers)[pick % len(self.workers)]
        self.workers[name].draining = draining
        self.scheduler.drain(name, draining)

    @precondition(lambda self: self.at_work())
    @rule(pick=PICK)
    def finish(self, pick: int) -> None:
        names = self.at_work()
        self.finish_one(names[pick % len(names)])

    @precondition(lambda self: self.at_work())
    @rule(pick=PICK, fault=st.sampled_from(Fault), again=st.booleans())
    def fail(self, pick: int, fault: Fault, again: bool) -> None:
        names = self.at_work()
        self.judge(names[pick % len(names)], fault)
        if again:
            self.now = max(self.now, self.scheduler.next_retry() or 0.0)
            self.assign(None)

    @precondition(lambda self: any(clip.stale for clip in self.clips.values()))
    @rule(pick=PICK)
    def rewind(self, pick: int) -> None:
        clip = next(clip for clip in self.clips.values() if clip.stale)
        whole = plan(clip.request, clip.segment)
        saved = [0, *(task.span[1] for task in whole if task.stage is Stage.DENOISE)]
        tasks = plan(clip.request, clip.segment, saved[pick % len(saved)])
        clip.rewinds += 1
        clip.stale, clip.done, clip.tasks = False, set(), {task.key: task for task in tasks}
        may_go_on = self.scheduler.rewind(clip.run, tasks)
        assert may_go_on == (clip.rewinds <= MAX_REWINDS)
        if not may_go_on:
            self.forget(clip)

    @precondition(lambda self: self.clips)
    @rule(pick=PICK)
    def withdraw(self, pick: int) -> None:
        self.forget(self.clip(pick))

    @precondition(lambda self: self.clips)
    @rule(pick=PICK, held=st.booleans())
    def hold(self, pick: int, held: bool) -> None:
        self.scheduler.hold(self.clip(pick).run, held)

    @precondition(lambda self: self.clips)
    @rule(pick=PICK, priority=st.integers(0, 100))
    def set_priority(self, pick: int, priority: int) -> None:
        self.scheduler.set_priority(self.clip(pick).run, priority)

    @rule(seconds=st.sampled_from((0.5, 1, 5, 600)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(rounds=st.integers(1, 4))
    def work(self, rounds: int) -> None:
        for _ in range(rounds):
            self.assign(None)
            for name in self.at_work():
                self.finish_one(name)
        self.assign(None)

    @rule(most=st.none() | st.integers(1, 3))
    def assign(self, most: int | None) -> None:
        decisions = self.scheduler.assign(self.now)
        while most is None or most > 0:
            ready = {kind: self.ready(kind) for kind in Kind}
            decision = next(decisions, None)
            if decision is None:
                self.check_nothing_is_left(ready)
                break
            self.check(decision, ready[decision.task.kind])
            self.carry_out(decision)
            most = None if most is None else most - 1

    # The laws

    def check(self, decision: Assignment, ready: list[tuple[Clip, Task]]) -> None:
        clip, task, name = self.clips[decision.run.id], decision.task, decision.worker
        tenant, busy, idle = clip.run.tenant, self.busy(), self.idle(task.kind)
        assert (clip, task) in ready  # what it needs is done, it is not held, nor under way
        assert name in idle
        assert busy[tenant] < CAPS.get(tenant, 1000)
        assert decision.attempt == clip.failures[task.key] + 1 <= MAX_ATTEMPTS
        assert decision.lean == (task.key in clip.lean)
        for other, another in ready:
            if idle <= other.avoid[another.key]:
                continue
            if other.run.tenant == tenant:
                assert clip.place <= other.place
            elif busy[other.run.tenant] < CAPS.get(other.run.tenant, 1000):
                assert busy[tenant] <= busy[other.run.tenant]
        self.check_place(decision, clip, idle)

    def check_place(self, decision: Assignment, clip: Clip, idle: set[str]) -> None:
        task, name, reason = decision.task, decision.worker, decision.reason
        avoid = clip.avoid[task.key]
        assert (reason is Reason.ONLY) == (name in avoid)
        if name in avoid:
            assert self.able(task.kind) <= avoid
            return
        loaded = {n for n in idle - avoid if self.workers[n].model == clip.run.model}
        assert name in loaded or not loaded
        stays = task.stage is Stage.DENOISE and clip.home in loaded
        assert (reason is Reason.STAYS) == stays
        assert name == clip.home or not stays
        assert (reason is Reason.ELSEWHERE) == (bool(avoid) and not stays)

    def check_nothing_is_left(self, ready: dict[Kind, list[tuple[Clip, Task]]]) -> None:
        """No worker is idle while there is something for it."""
        for kind, tasks in ready.items():
            for clip, task in tasks:
                avoid, busy = clip.avoid[task.key], self.busy()[clip.run.tenant]
                if busy < CAPS.get(clip.run.tenant, 1000):
                    assert self.idle(kind) <= avoid
                    assert not self.idle(kind) or self.able(kind) - avoid

    @invariant()
    def what_is_counted_is_so(self) -> None:
        assert {t: self.scheduler.busy[t] for t in TENANTS} == {t: self.busy()[t] for t in TENANTS}
        assert {name: own.task for name, own in self.workers.items()} == {
            name: worker.task for name, worker in self.scheduler.workers.items()
        }
        assert set(self.scheduler.runs) == set(self.clips)
        for clip in self.clips.values():
            assert clip.stale or clip.run.left == len(clip.tasks.keys() - clip.done)

    def teardown(self) -> None:
        """Once nothing fails any more, everything finishes, and nothing is left."""
        for name, own in self.workers.items():
            own.draining = False
            self.scheduler.drain(name, False)
        for kind in Kind:
            self.join(kind)
        until = self.now + 1000
        for clip in list(self.clips.values()):
            self.scheduler.hold(clip.run, False)
            if clip.stale:
                self.rewind(0)
        while self.clips or self.at_work():
            assert self.now < until
            self.work(1)
            self.now += 1
        for _ in TENANTS:
            assert not list(self.scheduler.assign(self.now + 100))
        assert not any(self.scheduler._ready.values())
        assert not self.scheduler._later
        assert not self.scheduler._delayed
        assert not any(self.scheduler.busy.values())

    # The model

    def ready(self, kind: Kind) -> list[tuple[Clip, Task]]:
        return [(c, task) for c in self.clips.values() for task in c.ready(kind, self.now)]

    def at_work(self) -> list[str]:
        return [name for name, own in self.workers.items() if own.task is not None]

    def busy(self) -> Counter[str]:
        return Counter(own.task.run.tenant for own in self.workers.values() if own.task)

    def able(self, kind: Kind) -> set[str]:
        """Workers that may get tasks, now or when they are done with theirs."""
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

    def carry_out(self, decision: Assignment) -> None:
        clip, own = self.clips[decision.run.id], self.workers[decision.worker]
        clip.due.pop(decision.task.key, None)
        clip.under_way[decision.task.key] = own.task = decision
        own.model = clip.run.model

    def free(self, name: str) -> tuple[Assignment, Clip | None]:
        """Take a worker's task from it; the clip, where it waits for that."""
        decision = self.workers[name].task
        assert decision is not None
        self.workers[name].task = None
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
        self.strikes.pop(name, None)
        if clip is not None:
            task = decision.task
            clip.done.add(task.key)
            del clip.failures[task.key]
            clip.home = name if task.kind is Kind.RENDERER else clip.home
            if clip.done == set(clip.tasks):
                assert clip.run.left == 0
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
        """When to try again."""
        delay = {Fault.STORE: 5.0, Fault.STOPPED: 0.0}.get(fault)
        if fault is Fault.STALE:
            clip.stale = True
            clip.under_way.clear()
            clip.due.clear()
        elif fault in (Fault.ERROR, Fault.LOST, Fault.MEMORY):
            clip.failures[key] += 1
            if clip.failures[key] < MAX_ATTEMPTS:
                if fault is not Fault.MEMORY:
                    clip.avoid[key].add(name)
                    delay = {1: 1.0, 2: 4.0}[clip.failures[key]]
                elif key not in clip.lean:
                    clip.lean.add(key)
                    delay = 0.0
        if delay is None:
            return None
        clip.due[key] = self.now + delay
        return clip.due[key]


TestLaws = Farm.TestCase
TestLaws.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
