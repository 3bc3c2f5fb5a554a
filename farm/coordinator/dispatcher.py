"""Renders clips: tasks are scheduled, run on workers, and their results processed.

`schedule`, `reports` and `postprocess` are the steps of `farm/coordinator/render_loop.py`. Workers
and background tasks only send reports; `postprocess` alone decides what happens to clips.
"""

import asyncio
import logging
from collections.abc import Mapping

from farm.clock import Clock
from farm.coordinator.clips import Clip, ClipEvent, Failed, Finished, Progressed, Retried, Started
from farm.coordinator.inbox import Inbox
from farm.coordinator.reports import (
    CheckpointFound,
    ClipBroken,
    Committed,
    Report,
    TaskDone,
    TaskFailed,
    TaskStarted,
    TaskStepped,
)
from farm.coordinator.task_runner import TaskRunner
from farm.logs import bound
from farm.model.plan import plan
from farm.scheduling.estimate import Pace
from farm.scheduling.scheduler import Scheduler
from farm.scheduling.state import Assignment, Fault, Urgency
from farm.workers.faults import TaskError
from farm.workers.protocol import WorkerJoined, WorkerLeft, Workers

log = logging.getLogger("farm")


class Dispatcher:
    """Renders each clip once, whoever asks for it."""

    def __init__(
        self,
        scheduler: Scheduler[Clip],
        workers: Workers,
        runner: TaskRunner,
        inbox: Inbox[Report],
        clock: Clock,
        segment: int,
    ) -> None:
        """inbox: where workers and runner report. segment: steps between two checkpoints."""
        self.pace = Pace()
        self.drained: set[str] = set()  # by an operator; a worker that is restarted stays so
        self._retiring: set[str] = set()  # workers that end once their task is done
        self._scheduler, self._workers, self._runner = scheduler, workers, runner
        self._inbox, self._clock, self._segment = inbox, clock, segment

    # Commands

    @property
    def clips(self) -> Mapping[str, Clip]:
        """The clips under way, by digest."""
        return self._scheduler.runs

    def add(self, clip: Clip, step: int = 0) -> None:
        """Render a clip, from the checkpoint after step `step` if that is not 0."""
        # The key of a checkpoint can name more steps than the clip has.
        clip.step = step if step <= clip.request.params.steps else 0
        self._scheduler.add(clip, plan(clip.request, self._segment, clip.step))
        self._inbox.wake()

    def set_urgency(self, clip: Clip, urgency: Urgency) -> None:
        """Render a clip sooner, later, for another tenant, or not for now."""
        self._scheduler.set_urgency(clip, urgency)
        self._inbox.wake()

    def cancel(self, clip: Clip) -> "asyncio.Task[None]":
        """Stop a clip at its next step or chunk; the task ends once no worker runs the clip."""
        self._scheduler.withdraw(clip)
        return self._runner.stop(clip)

    def drain(self, name: str, draining: bool) -> None:
        """Give a worker no more tasks, or some again."""
        (self.drained.add if draining else self.drained.discard)(name)
        self._scheduler.drain(name, draining)
        self._inbox.wake()

    def retire(self, name: str, hurry: bool = False) -> None:
        """End a worker for good once its task is done; call this again until the worker is gone.

        hurry: its node is about to be taken away, so the task hands over if it can.
        """
        worker = self._scheduler.workers.get(name)
        if worker is not None and worker.task is not None:
            self._scheduler.drain(name, True)
            self._retiring.add(name)
            if hurry:
                self._runner.hand_over(worker.task)
            return
        if worker is not None:
            self._scheduler.leave(name)
        self.drained.discard(name)  # another worker may get its name
        self._retiring.discard(name)
        self._workers.retire(name)

    def keep(self, name: str) -> None:
        """Give a worker tasks again that was to be retired, since it has a slot after all."""
        if name in self._retiring:
            self._retiring.discard(name)
            self._scheduler.drain(name, name in self.drained)
            self._inbox.wake()

    def end_stalled(self, stall_s: float, load_s: float) -> None:
        """Take tasks from workers that show no progress for `stall_s`: they count as lost.

        load_s: until the first progress of a task, since its model may have to be loaded.
        """
        tasks = {worker.task for worker in self._scheduler.workers.values() if worker.task}
        for assignment in tasks:
            limit_s = stall_s if assignment.loaded else load_s
            if self._clock.monotonic() - assignment.progressed_at > limit_s:
                model = assignment.run.source.name
                what = "no progress" if assignment.loaded else f"{model} is not loaded"
                error = TaskError(Fault.LOST, f"{what} within {limit_s:g} s")
                self._inbox.put(TaskFailed(assignment, error))

    # The steps of the render loop

    def schedule(self) -> None:
        """Start ready tasks on idle workers."""
        for assignment in self._scheduler.assign(self._clock.monotonic()):
            label, task = assignment.run.label, assignment.task.key
            with bound(**self._runner.fields(assignment)):
                log.info("%s: %s on %s: %s", label, task, assignment.worker, assignment.reason)
                self._runner.run(assignment)

    async def reports(self) -> list[Report]:
        """Wait for reports, for a command, or for a retry to be due."""
        due = self._scheduler.next_retry()
        timeout_s = None if due is None else max(0.01, due - self._clock.monotonic())
        return await self._inbox.take(timeout_s)

    def postprocess(self, report: Report) -> list[ClipEvent]:
        """Process a report, and return what has happened to clips."""
        with bound(**self._fields(report)):
            return self._process(report)

    def _fields(self, report: Report) -> dict[str, str]:
        """The fields of what is logged about a report."""
        match report:
            case WorkerJoined(name) | WorkerLeft(name):
                return {"worker": name}
            case CheckpointFound(clip) | Committed(clip) | ClipBroken(clip):
                return clip.fields
            case _:
                return self._runner.fields(report.assignment)

    def _process(self, report: Report) -> list[ClipEvent]:
        match report:
            case WorkerJoined():
                return self._join(report)
            case WorkerLeft():
                return self._leave(report)
            case TaskStarted(assignment):
                return [Started(assignment.run)]
            case TaskStepped():
                return self._step(report)
            case TaskDone():
                return self._finish(report)
            case TaskFailed():
                report.assignment.run.gpu_seconds += report.seconds
                name = report.error.worker or report.assignment.worker
                return self._fail(report.assignment, report.error, name)
            case CheckpointFound(clip, step):
                return self._rewind(clip, step)
            case Committed():
                return self._commit(report)
            case ClipBroken(clip, error):
                return self._give_up(clip, error)

    # Processing of reports

    def _join(self, report: WorkerJoined) -> list[ClipEvent]:
        if report.name not in self._workers.slots:
            return []  # it was retired meanwhile
        self._scheduler.join(report.name, report.kind, report.memory)
        if report.name in self.drained:
            self._scheduler.drain(report.name, True)
        return []

    def _leave(self, report: WorkerLeft) -> list[ClipEvent]:
        name, events = report.name, list[ClipEvent]()
        log.warning("%s is lost: %s", name, report.why)
        worker = self._scheduler.workers.get(name)
        if worker is not None and worker.task is not None:
            events = self._fail(worker.task, TaskError(Fault.LOST, report.why), name)
        if worker is not None:
            self._scheduler.leave(name)
        self._retiring.discard(name)
        return events

    def _step(self, report: TaskStepped) -> list[ClipEvent]:
        assignment = report.assignment
        assignment.progressed_at, assignment.loaded = self._clock.monotonic(), True
        current = self._scheduler.is_current(assignment)
        return assignment.run.advance(report.step) if current else []

    def _finish(self, report: TaskDone) -> list[ClipEvent]:
        assignment, clip = report.assignment, report.assignment.run
        clip.gpu_seconds += sum(report.seconds)
        if not self._is_at(assignment.worker, assignment):
            return []  # another worker that shared it has died
        current = self._scheduler.is_current(assignment)
        self._scheduler.finish(assignment.worker)
        _note_stopped(clip)
        if not current:
            return []
        seconds = max(report.seconds)
        clip.keep(assignment.task, report.refs, seconds)
        self.pace.observe(assignment.task, clip.request, seconds)
        if report.made is not None:
            clip.committing = True
            self._runner.commit(clip, report.made)
        return [Progressed(clip)]

    def _fail(self, assignment: Assignment[Clip], error: TaskError, name: str) -> list[ClipEvent]:
        """Both the task and the pool report a worker's death: the second report changes nothing."""
        if not self._is_at(name, assignment):
            return []
        clip, current = assignment.run, self._scheduler.is_current(assignment)
        verdict = self._scheduler.fail(name, error.fault, self._clock.monotonic())
        _note_stopped(clip)
        if verdict.restart_worker:
            log.warning("%s failed several clips in a row and is restarted", name)
        if verdict.restart_worker or error.fault is Fault.LOST:
            self._scheduler.drain(name, True)  # until it is reported to have left
            self._workers.restart(name)
        if not current:
            return []
        what = f"{assignment.task.key}, attempt {assignment.attempt} on {name}"
        log.warning("%s: %s: %s: %s", clip.label, what, error.fault, error)
        if verdict.failed:
            return self._give_up(clip, _explain(assignment, error))
        if error.fault is Fault.STALE:
            self._runner.find_checkpoint(clip)
        return [Retried(clip, error.fault, f"{what}: {error}")]

    def _rewind(self, clip: Clip, step: int) -> list[ClipEvent]:
        """Continue from a checkpoint, after results were lost with their node."""
        if clip.gone:
            return []
        clip.rewind(step)
        if not self._scheduler.rewind(clip, plan(clip.request, self._segment, step)):
            return self._give_up(clip, "its results were lost too often")
        return []

    def _commit(self, report: Committed) -> list[ClipEvent]:
        clip, result = report.clip, report.result
        self._runner.clear(clip, result)
        if clip.gone:
            return []
        self._scheduler.withdraw(clip)
        return [Finished(clip, result)]

    def _give_up(self, clip: Clip, error: str) -> list[ClipEvent]:
        if clip.gone:
            return []
        self.cancel(clip)
        return [Failed(clip, error)]

    def _is_at(self, name: str, assignment: Assignment[Clip]) -> bool:
        worker = self._scheduler.workers.get(name)
        return worker is not None and worker.task is assignment


def _note_stopped(clip: Clip) -> None:
    if not clip.running:
        clip.stopped.set()


def _explain(assignment: Assignment[Clip], error: TaskError) -> str:
    if error.fault in (Fault.LOST, Fault.ERROR, Fault.GANG):
        tries = f"{assignment.attempt} workers failed at {assignment.task.key}"
        return f"{tries}; the last error: {error}"
    return str(error)
