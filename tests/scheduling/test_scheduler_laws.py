"""Properties of the scheduler that must always hold, tested with random events."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import farm.scheduling.scheduler
from farm.model.plan import Kind, Stage, Task, plan
from farm.scheduling.scheduler import MAX_ATTEMPTS, MAX_REWINDS, NEAR
from farm.scheduling.state import Assignment, Fault, Reason, Run, Urgency
from tests.model.test_plan import request
from tests.support.farm_model import CAPS, Clip, FarmModel, Own

TENANTS = ("one", "two", *CAPS)
PICK = st.integers(0, 1000)


class Farm(FarmModel, RuleBasedStateMachine):
    """Clips, workers and faults at random; every decision is held against the laws."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        FarmModel.__init__(self)

    # What happens

    @initialize(
        renderers=st.integers(0, 3), decoders=st.integers(0, 2), near=st.sampled_from((1, 2, NEAR))
    )
    def begin(self, renderers: int, decoders: int, near: int) -> None:
        farm.scheduling.scheduler.NEAR = near  # how far plans are drawn changes no decision
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
        run = Run(f"clip-{self.count}", model, Urgency(tenant, self.now, priority))
        tasks = list(plan(asked, segment, min(done, steps)))
        self.clips[run.id] = Clip(run, asked, segment, self.count, {t.key: t for t in tasks})
        self.scheduler.add(run, tasks)

    @precondition(lambda self: self.clips)
    @rule(pick=PICK, tenant=st.sampled_from(TENANTS))
    def give(self, pick: int, tenant: str) -> None:
        """Whoever asked for it first waits for it no more; another goes on."""
        run = self.clip(pick).run
        urgency = replace(run.urgency, tenant=tenant, submitted=self.now)
        self.scheduler.set_urgency(run, urgency)
        assert run.urgency == urgency

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
        whole = list(plan(clip.request, clip.segment))
        saved = [0, *(task.span[1] for task in whole if task.stage is Stage.DENOISE)]
        tasks = list(plan(clip.request, clip.segment, saved[pick % len(saved)]))
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
        run = self.clip(pick).run
        self.scheduler.set_urgency(run, replace(run.urgency, held=held))

    @precondition(lambda self: self.clips)
    @rule(pick=PICK, priority=st.integers(0, 100))
    def set_priority(self, pick: int, priority: int) -> None:
        run = self.clip(pick).run
        self.scheduler.set_urgency(run, replace(run.urgency, priority=priority))

    @rule(seconds=st.sampled_from((0.5, 1, 5, 600)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(rounds=st.integers(1, 4))
    def work(self, rounds: int) -> None:
        for _ in range(rounds):
            self.assign(None)
            for name in self.at_work():
                if self.workers[name].task is not None:  # not done with those who shared it
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

    def check(self, decision: Assignment[Run], ready: list[tuple[Clip, Task]]) -> None:
        clip, task, name = self.clips[decision.run.id], decision.task, decision.worker
        tenant, busy, idle = clip.run.urgency.tenant, self.busy(), self.idle(task.kind)
        assert (clip, task) in ready  # what it needs is done, it is not held, nor under way
        assert name in idle
        assert busy[tenant] < CAPS.get(tenant, 1000)
        assert decision.attempt == clip.failures[task.key] + 1 <= MAX_ATTEMPTS
        assert decision.low_memory == (task.key in clip.low_memory)
        for other, another in ready:
            if idle <= other.avoid[another.key]:
                continue
            if other.run.urgency.tenant == tenant:
                assert clip.place <= other.place
            elif busy[other.run.urgency.tenant] < CAPS.get(other.run.urgency.tenant, 1000):
                mine, others = tenant, other.run.urgency.tenant
                assert self.turn(mine, task.kind) <= self.turn(others, task.kind)
        self.check_place(decision, clip, idle)
        self.check_helpers(decision, clip, ready)

    def check_place(self, decision: Assignment[Run], clip: Clip, idle: set[str]) -> None:
        task, name, reason = decision.task, decision.worker, decision.reason
        avoid = clip.avoid[task.key]
        assert (reason is Reason.ONLY) == (name in avoid)
        if name in avoid:
            assert self.able(task.kind) <= avoid
            return
        loaded = {n for n in idle - avoid if self.workers[n].model == clip.run.model}
        assert name in loaded or not loaded
        stays = task.stage is Stage.DENOISE and clip.last_renderer in loaded
        assert (reason is Reason.STAYS) == stays
        assert name == clip.last_renderer or not stays
        assert (reason is Reason.ELSEWHERE) == (bool(avoid) and not stays)

    def check_helpers(
        self, decision: Assignment[Run], clip: Clip, ready: list[tuple[Clip, Task]]
    ) -> None:
        task, helpers, tenant = decision.task, set(decision.helpers), clip.run.urgency.tenant
        if not helpers:
            return
        idle = self.idle(task.kind)
        assert len(decision.members) == len({*decision.members}) <= task.most
        assert task.key not in clip.unshared
        assert helpers <= idle - clip.avoid[task.key] - {decision.worker}
        assert self.busy()[tenant] + len(decision.members) <= CAPS.get(tenant, 1000)
        for other, another in ready:  # nobody is spared who has something of his own
            assert (other, another) == (clip, task) or idle <= other.avoid[another.key]

    def check_nothing_is_left(self, ready: dict[Kind, list[tuple[Clip, Task]]]) -> None:
        """No worker is idle while there is something for it."""
        for kind, tasks in ready.items():
            for clip, task in tasks:
                avoid, busy = clip.avoid[task.key], self.busy()[clip.run.urgency.tenant]
                if busy < CAPS.get(clip.run.urgency.tenant, 1000):
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
            assert clip.stale or clip.run.done == (clip.tasks.keys() == clip.done)

    def teardown(self) -> None:
        """Once nothing fails any more, everything finishes, and nothing is left."""
        for name, own in self.workers.items():
            own.draining = False
            self.scheduler.drain(name, False)
        for kind in Kind:
            self.join(kind)
        until = self.now + 1000
        for clip in list(self.clips.values()):
            self.scheduler.set_urgency(clip.run, replace(clip.run.urgency, held=False))
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
        farm.scheduling.scheduler.NEAR = NEAR


TestLaws = Farm.TestCase
TestLaws.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
