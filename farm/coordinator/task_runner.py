"""Background work for clips: tasks on workers, and calls of the store.

It decides nothing. Each piece of work ends with a report to the dispatcher, whatever happens, so
that no worker stays busy and no clip stays open unnoticed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from farm.background import Background
from farm.clock import Clock
from farm.coordinator.clip_store import ClipStore
from farm.coordinator.clips import Clip
from farm.coordinator.inbox import Inbox
from farm.coordinator.reports import (
    CheckpointFound,
    ClipBroken,
    ClipReport,
    Committed,
    Report,
    TaskDone,
    TaskFailed,
    TaskStarted,
    TaskStepped,
)
from farm.coordinator.work_history import WorkHistory
from farm.errors import strip_directories
from farm.model.job import ClipResult
from farm.model.plan import Stage
from farm.model.task_order import Made, Order, Step
from farm.scheduling.state import Assignment, Fault
from farm.workers.faults import TaskError
from farm.workers.gang import member_attempt, run_members
from farm.workers.protocol import Workers

log = logging.getLogger("farm")

STOP_GRACE_S = 30.0  # for a step or a chunk to end when asked to; then its worker is restarted


class TaskRunner:
    """Starts background work, and reports its outcome."""

    def __init__(
        self,
        workers: Workers,
        clip_store: ClipStore,
        background: Background,
        inbox: Inbox[Report],
        clock: Clock,
        history: WorkHistory,
    ) -> None:
        self._workers, self._clip_store, self._history = workers, clip_store, history
        self._background, self._inbox, self._clock = background, inbox, clock

    def run(self, assignment: Assignment[Clip]) -> None:
        """Run a task on its workers; reports its start, its steps and its end."""
        clip, task = assignment.run, assignment.task
        attempt = self._clip_store.attempt(assignment.number)
        order = Order(
            clip.request, clip.source, task, attempt, assignment.low_memory, trail=clip.trail
        )
        clip.begin(assignment, order, self._workers.places.get(assignment.worker, ""))
        self._inbox.put(TaskStarted(assignment))
        self._background.start(self._run(assignment, order))

    def fields(self, assignment: Assignment[Clip]) -> dict[str, str]:
        """The fields of what is logged about an attempt."""
        return assignment.run.fields | {
            "task": assignment.task.key,
            "worker": assignment.worker,
            "attempt": self._clip_store.attempt(assignment.number),
        }

    def find_checkpoint(self, clip: Clip) -> None:
        """Look up from where a clip can continue; reports CheckpointFound."""

        async def find() -> ClipReport:
            return CheckpointFound(clip, await self._clip_store.last_checkpoint(clip))

        self._start_for(clip, find)

    def commit(self, clip: Clip, made: Made) -> None:
        """Write a clip's result; reports Committed."""

        async def write() -> ClipReport:
            return Committed(clip, await self._clip_store.commit(clip, made))

        self._start_for(clip, write)

    def clear(self, clip: Clip, result: ClipResult | None = None) -> None:
        """Delete what an ended clip leaves in the store, except what its result names."""
        self._background.start(self._clip_store.clear(clip, result))

    def stop(self, clip: Clip) -> "asyncio.Task[None]":
        """Stop a withdrawn clip's tasks, and clear it; the task ends once no worker runs it."""
        for name, assignment in clip.running.items():
            attempt = self._clip_store.attempt(assignment.number)
            self._workers.stop(name, member_attempt(attempt, assignment.members, name))
        return self._background.start(self._stop(clip))

    def hand_over(self, assignment: Assignment[Clip]) -> None:
        """Let a task save a checkpoint at its next step and end, so that another worker goes on."""
        if assignment.task.stage is Stage.DENOISE:
            attempt = self._clip_store.attempt(assignment.number)
            self._workers.hand_over(assignment.worker, attempt)

    async def _run(self, assignment: Assignment[Clip], order: Order) -> None:
        clip, task, began = assignment.run, assignment.task, self._clock.monotonic()
        on_step = partial(self._report_step, assignment)
        members = assignment.members
        begun = self._history.begin(members, task.stage)
        try:
            inputs = clip.inputs(task)
            refs, seconds = await run_members(self._workers, members, order, inputs, on_step)
            made: Made | None = await refs[0] if task.stage is Stage.MUX else None
        except Exception as error:
            if not isinstance(error, TaskError):
                log.exception("%s: %s on %s", clip.label, task.key, assignment.worker)
                error = TaskError(Fault.ERROR, strip_directories(repr(error)))
            took = (self._clock.monotonic() - began) * len(members)
            self._inbox.put(TaskFailed(assignment, error, took))
        else:
            self._inbox.put(TaskDone(assignment, refs, seconds, made))
        finally:
            self._history.end(begun)

    def _report_step(self, assignment: Assignment[Clip], step: Step) -> None:
        self._inbox.put(TaskStepped(assignment, step))

    def _start_for(self, clip: Clip, work: Callable[[], Coroutine[Any, Any, ClipReport]]) -> None:
        """Run work that a clip needs; should it fail unexpectedly, so does the clip."""

        async def guarded() -> None:
            try:
                report = await work()
            except Exception as error:
                log.exception("%s: unexpected error at clip %s", clip.label, clip.id)
                report = ClipBroken(clip, strip_directories(f"an error in the farm: {error!r}"))
            self._inbox.put(report)

        self._background.start(guarded())

    async def _stop(self, clip: Clip) -> None:
        try:
            if clip.running:
                await asyncio.wait_for(clip.stopped.wait(), STOP_GRACE_S)
        except TimeoutError:
            for name in clip.running:
                log.warning("%s: %s does not stop and is restarted", clip.label, name)
                self._workers.restart(name)
        if not clip.committing:
            self.clear(clip)
