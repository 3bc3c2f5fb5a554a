"""Clips being rendered: their state, how it changes, and the events that report the changes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from farm.model.job import ClipResult
from farm.model.plan import Kind, Stage, Task
from farm.model.request import Model, RenderRequest
from farm.model.task_order import Made, Order, Ref, Step
from farm.model.trail import NO_TRAIL, Trail
from farm.scheduling.state import Assignment, Fault, Run


@dataclass(eq=False, kw_only=True)
class Clip(Run):
    """A clip being rendered.

    One object serves the scheduler, which queues the clip's tasks; the dispatcher, which adds their
    results; and `Sharing`, which adds the jobs that wait for it. `Scheduler.runs` holds them all.
    """

    request: RenderRequest
    source: Model  # the model as workers load it
    label: str  # the id of the job that asked first, for log messages
    trail: Trail = NO_TRAIL  # of that job
    force: bool = False
    recovered: bool = False  # begun by an earlier coordinator
    jobs: list[str] = field(default_factory=list)  # the jobs that wait for it, the first one first
    stage: Stage | None = None
    step: int = 0
    previewed: int = 0  # the step of the last preview that was announced
    chunks: int = 0  # chunks that are decoded
    furthest: tuple[int, int] = (0, 0)  # steps and chunks that were reported before a rewind
    most_attempts: int = 1  # the most that any of its tasks took
    gpu_seconds: float = 0.0
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(Stage, 0.0))
    renderer: str = ""
    refs: dict[str, Sequence[Ref]] = field(default_factory=dict)  # results, by task
    muxes: list[str] = field(default_factory=list)  # attempts that may have stored artifacts
    committing: bool = False  # its result is being committed, or is already
    stopped: asyncio.Event = field(default_factory=asyncio.Event)  # set while no worker runs it

    @property
    def fields(self) -> dict[str, str]:
        """The fields of what is logged about it."""
        return self.trail.fields | {"clip": self.id}

    def begin(self, assignment: "Assignment[Clip]", order: Order, place: str) -> None:
        """Note that a worker begins an attempt at a task. place: where the worker is."""
        self.stopped.clear()
        self.stage = assignment.task.stage
        self.most_attempts = max(self.most_attempts, assignment.attempt)
        if assignment.task.kind is Kind.RENDERER:
            self.renderer = f"{assignment.worker}@{place}"
        elif assignment.task.stage is Stage.MUX:
            self.muxes.append(order.attempt)

    def inputs(self, task: Task) -> list[Ref | None]:
        """The results that a task needs; None for one that is only in the store."""
        none: Sequence[Ref | None] = (None,)
        return [ref for key in task.needs for ref in self.refs.get(key, none)]

    def advance(self, step: Step) -> "list[ClipEvent]":
        """Note a worker's progress; returns the events to publish."""
        events: list[ClipEvent] = []
        if step.done != self.step:
            self.step = step.done
            events.append(Progressed(self))
        if step.previewed > self.previewed:
            self.previewed = step.previewed
            events.append(Previewed(self))
        return events

    def keep(self, task: Task, refs: Sequence[Ref], seconds: float) -> None:
        """Keep the result of a task that is done."""
        self.refs[task.key] = tuple(refs)
        self.seconds[task.stage] += seconds
        if task.stage is Stage.DENOISE:
            self.step = task.span[1]
        self.chunks += task.stage is Stage.DECODE

    def rewind(self, step: int) -> None:
        """Go back to the checkpoint after `step`, because later results are lost."""
        self.refs.clear()
        self.furthest = max(self.furthest[0], self.step), max(self.furthest[1], self.chunks)
        self.step, self.previewed, self.chunks = step, 0, 0

    def result(self, made: Made, fence: int, now: float) -> ClipResult:
        """Its result, once all tasks are done. now: in seconds since 1970."""
        return ClipResult(
            request=self.request,
            **vars(made),
            # Not rounded to 0, which would stand for a stage that was not timed.
            seconds={stage: round(s, 6) for stage, s in self.seconds.items()},
            gpu_seconds=round(self.gpu_seconds, 4),
            attempts=self.most_attempts,
            worker=self.renderer,
            fence=fence,
            finished_at=now,
        )


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun a task of the clip."""

    clip: Clip


@dataclass(frozen=True, slots=True)
class Progressed:
    """One more step or chunk is done."""

    clip: Clip


@dataclass(frozen=True, slots=True)
class Previewed:
    """A newer preview is in the store."""

    clip: Clip


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt has failed; there will be another."""

    clip: Clip
    fault: Fault
    why: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The clip's result is in the store."""

    clip: Clip
    result: ClipResult


@dataclass(frozen=True, slots=True)
class Failed:
    """The clip has failed for good."""

    clip: Clip
    error: str


ClipEvent = Started | Progressed | Previewed | Retried | Finished | Failed
