"""Clips being rendered: the scheduler's decisions carried out on the pool's workers."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from farm.background import Background
from farm.coordinator.clips import Clip, Listener
from farm.errors import StoreError
from farm.model.job import ClipResult
from farm.model.plan import Kind, Stage, plan
from farm.model.task_order import Made, Order, Step
from farm.records.cleanup import clear_clip, earlier_attempts
from farm.records.commits import commit
from farm.scheduling.estimate import Pace
from farm.scheduling.scheduler import Scheduler
from farm.scheduling.state import Assignment, Fault
from farm.store import Store
from farm.store.keys import checkpoints_prefix, step_of
from farm.store.retry import retry_until_stored
from farm.workers.gang import member_attempt, run_members
from farm.workers.pool import Pool, TaskError

log = logging.getLogger("farm")

STOP_GRACE_S = 30.0  # to end a step or a chunk when asked to; then the worker is ended


class Dispatcher:
    """Renders clips, each once, whoever asks for it; ends with a commit to the store."""

    def __init__(
        self,
        store: Store,
        background: Background,
        pool: Pool,
        scheduler: Scheduler,
        listener: Listener,
        fence: int,
        segment: int,
    ) -> None:
        self.clips: dict[str, Clip] = {}
        self.pace = Pace()
        self._store, self._background, self._pool = store, background, pool
        self._scheduler, self._listener = scheduler, listener
        self._fence, self._segment = fence, segment
        self._wake = asyncio.Event()
        self._at_work: dict[Assignment, Clip] = {}
        self._signs: dict[Assignment, float] = {}  # when each was last seen to go on
        self._loading: set[Assignment] = set()  # those that gave no sign yet

    # What the coordinator asks for

    def add(self, clip: Clip, step: int = 0) -> None:
        """Render a clip that is `step` steps done, by a checkpoint of the store."""
        step = step if step <= clip.request.params.steps else 0  # a name, and no checkpoint of it
        clip.step = step
        self.clips[clip.run.id] = clip
        self._scheduler.add(clip.run, plan(clip.request, self._segment, step))
        self.poke()

    def cancel(self, clip: Clip) -> "asyncio.Task[None]":
        """Stop a clip at its next step or chunk; await the task to know that no worker is at it."""
        return self._background.start(self._stop(clip, self._withdraw(clip)))

    def end_stalled(self, stall_s: float, load_s: float) -> None:
        """End workers whose task showed no sign of going on for so long; it counts as lost.

        load_s: until its first sign, which is that the model is loaded.
        """
        for assignment, seen in list(self._signs.items()):
            loading = assignment in self._loading
            limit_s = load_s if loading else stall_s
            if time.monotonic() - seen > limit_s:
                model = self._at_work[assignment].model.name
                what = f"{model} is not loaded" if loading else "no step and no end"
                why = f"{what} within {limit_s:g} s"
                self._failed(assignment, TaskError(Fault.LOST, why), assignment.worker)

    def poke(self) -> None:
        """Something changed: there may be something to assign."""
        self._wake.set()

    def joined(self, name: str, kind: Kind, memory: int | None) -> None:
        """The pool has a new worker."""
        self._scheduler.join(name, kind, memory)
        self.poke()

    def left(self, name: str, why: str) -> None:
        """A worker of the pool is dead."""
        worker = self._scheduler.workers.get(name)
        log.warning("%s is lost: %s", name, why)
        if worker is not None:
            if worker.task is not None:
                self._failed(worker.task, TaskError(Fault.LOST, why), name)
            self._scheduler.leave(name)

    async def work(self) -> None:
        """Assign tasks, for ever."""
        while True:
            self._wake.clear()
            now = time.monotonic()
            for assignment in self._scheduler.assign(now):
                clip = self._at_work[assignment] = self.clips[assignment.run.id]
                self._signs[assignment] = time.monotonic()
                self._loading.add(assignment)
                clip.stopped.clear()
                self._background.start(self._carry_out(assignment, clip))
            due = self._scheduler.next_retry()
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.01, due - now) if due else None)
            except TimeoutError:
                continue

    # The inside

    async def _carry_out(self, assignment: Assignment, clip: Clip) -> None:
        task = assignment.task
        clip.stage, clip.attempts = task.stage, max(clip.attempts, assignment.attempt)
        if task.kind is Kind.RENDERER:
            clip.renderer = f"{assignment.worker}@{self._pool.places.get(assignment.worker, '')}"
        log.info("%s: %s on %s: %s", clip.label, task.key, assignment.worker, assignment.reason)
        self._listener.started(clip)
        order = Order(clip.request, clip.model, task, self._attempt_of(assignment), assignment.lean)
        if task.stage is Stage.MUX:
            clip.muxes.append(order.attempt)
        # What is not there is in the store: None.
        given = [ref for key in task.needs for ref in clip.refs.get(key, (None,))]
        began = time.monotonic()
        try:
            refs, seconds = await run_members(
                self._pool,
                assignment.members,
                order,
                given,
                lambda step: self._stepped(clip, assignment, step),
            )
            made = await refs[0] if task.stage is Stage.MUX else None
        except Exception as error:
            fault = error if isinstance(error, TaskError) else TaskError(Fault.ERROR, repr(error))
            clip.gpu_seconds += (time.monotonic() - began) * len(assignment.members)
            self._failed(assignment, fault, fault.worker or assignment.worker)
        else:
            clip.gpu_seconds += sum(seconds)
            self._done(assignment, clip, refs, made, max(seconds))

    def _done(
        self,
        assignment: Assignment,
        clip: Clip,
        refs: Sequence[Any],
        made: Made | None,
        seconds: float,
    ) -> None:
        if not self._is_at(assignment.worker, assignment):
            return  # judged already: one of its members died
        task, current = assignment.task, self._scheduler.is_current(assignment)
        self._scheduler.finish(assignment.worker)
        self._off_work(assignment)
        self.poke()
        if not current:
            return
        clip.refs[task.key] = tuple(refs)
        clip.seconds[task.stage] += seconds
        self.pace.observe(task, clip.request, seconds)
        if task.stage is Stage.DENOISE:
            clip.step = task.span[1]
        clip.chunks += task.stage is Stage.DECODE
        self._listener.progressed(clip)
        if made is not None:
            clip.committing = True
            self._background.start(self._commit(clip, made))

    def _failed(self, assignment: Assignment, fault: TaskError, name: str) -> None:
        """Judge a worker's fault, once: its death is told of by its task and by the pool."""
        if not self._is_at(name, assignment):
            return
        current = self._scheduler.is_current(assignment)
        verdict = self._scheduler.fail(name, fault.fault, time.monotonic())
        self.poke()
        if verdict.set_aside:
            log.warning("%s failed several clips in a row and is restarted", name)
        if verdict.set_aside or fault.fault is Fault.LOST:
            self._scheduler.drain(name, True)  # until the pool tells of its death
            self._pool.restart(name)
        clip = self._off_work(assignment)
        if not current:
            return
        what = f"{assignment.task.key}, attempt {assignment.attempt} on {name}"
        log.warning("%s: %s: %s: %s", clip.label, what, fault.fault, fault)
        if verdict.failed:
            self._give_up(clip, self._explain(assignment, fault))
            return
        self._listener.tried_again(clip, f"{what}: {fault}")
        if fault.fault is Fault.STALE:
            self._background.start(self._rewind(clip))

    def _explain(self, assignment: Assignment, fault: TaskError) -> str:
        if fault.fault in (Fault.LOST, Fault.ERROR, Fault.GANG):
            tries = f"{assignment.attempt} workers failed at {assignment.task.key}"
            return f"{tries}, the last one so: {fault}"
        return str(fault)

    def _is_at(self, name: str, assignment: Assignment) -> bool:
        worker = self._scheduler.workers.get(name)
        return worker is not None and worker.task is assignment

    def _give_up(self, clip: Clip, error: str) -> None:
        self.cancel(clip)
        self._listener.failed(clip, error)

    def _withdraw(self, clip: Clip) -> list[str]:
        """Ask those who are at a clip to end, and forget it; their names."""
        self.clips.pop(clip.run.id, None)
        workers = self._scheduler.withdraw(clip.run)
        for name in workers:
            task = self._scheduler.workers[name].task
            assert task is not None
            self._pool.stop(name, member_attempt(self._attempt_of(task), task.members, name))
        return workers

    async def _stop(self, clip: Clip, workers: list[str]) -> None:
        try:
            if workers:
                await asyncio.wait_for(clip.stopped.wait(), STOP_GRACE_S)
        except TimeoutError:
            for name in workers:
                worker = self._scheduler.workers.get(name)
                if worker and worker.task and worker.task.run is clip.run:
                    log.warning("%s: %s does not stop and is ended", clip.label, name)
                    self._pool.restart(name)
        if not clip.committing:
            self._background.start(self._clear(clip))

    async def _rewind(self, clip: Clip) -> None:
        """Go on from the last checkpoint: results that were kept are gone with their node."""
        step = 0
        try:
            keys = await self._background.call(
                lambda: list(self._store.list(checkpoints_prefix(clip.run.id)))
            )
            steps = [found[1] for key in keys if (found := step_of(key))]
            step = max((s for s in steps if s <= clip.request.params.steps), default=0)
        except StoreError as error:
            log.warning("%s: begins anew, its checkpoints cannot be read: %s", clip.label, error)
        if self.clips.get(clip.run.id) is not clip:
            return
        clip.refs.clear()
        clip.furthest = max(clip.furthest[0], clip.step), max(clip.furthest[1], clip.chunks)
        clip.step, clip.previewed, clip.chunks = step, 0, 0
        if not self._scheduler.rewind(clip.run, plan(clip.request, self._segment, step)):
            self._give_up(clip, "its results were lost too often")
        self.poke()

    async def _commit(self, clip: Clip, made: Made) -> None:
        """Name the clip's artifacts in the store: from then on it is done, once and for all.

        Even where it is cancelled meanwhile: whether it is named already, nobody can tell.
        """
        result = clip.result(made, self._fence)
        result = await retry_until_stored(
            partial(self._background.call, commit, self._store, result, clip.force),
            f"{clip.label}: its result cannot be committed yet",
        )
        if self.clips.get(clip.run.id) is clip:
            del self.clips[clip.run.id]
            self._scheduler.withdraw(clip.run)
            self._listener.finished(clip, result)
        await self._clear(clip, result)

    async def _clear(self, clip: Clip, result: ClipResult | None = None) -> None:
        """Delete what a clip that has ended needs no more; all but what its result names."""
        attempts, kept = list(clip.muxes), set[str]()
        try:
            if result is not None:
                kept = {result.video, result.thumbnail, result.sprite_sheet}
                if clip.recovered and not clip.force:  # what was forced over is still a job's
                    attempts += await self._background.call(
                        earlier_attempts, self._store, clip.run.id, self._fence
                    )
        except StoreError as error:
            log.warning("%s: what earlier attempts stored stays: %s", clip.label, error)
        steps = clip.request.params.steps
        await self._background.call(clear_clip, self._store, clip.run.id, steps, attempts, kept)

    def _stepped(self, clip: Clip, assignment: Assignment, step: Step) -> None:
        self._signs[assignment] = time.monotonic()
        self._loading.discard(assignment)
        if self._scheduler.is_current(assignment):
            if step.done != clip.step:
                clip.step = step.done
                self._listener.progressed(clip)
            if step.previewed > clip.previewed:
                clip.previewed = step.previewed
                self._listener.previewed(clip)

    def _off_work(self, assignment: Assignment) -> Clip:
        """The clip, which its worker has left; told to who waits for the last one to leave."""
        clip = self._at_work.pop(assignment)
        del self._signs[assignment]
        self._loading.discard(assignment)
        if clip not in self._at_work.values():
            clip.stopped.set()
        return clip

    def _attempt_of(self, assignment: Assignment) -> str:
        """A name no other attempt has, of this coordinator or of another."""
        return f"{self._fence}-{assignment.number}"
