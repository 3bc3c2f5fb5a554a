"""What the dispatcher is told while clips are rendered: by workers, and by its own tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

from farm.coordinator.clips import Clip
from farm.model.job import ClipResult
from farm.model.task_order import Made, Ref, Step
from farm.scheduling.state import Assignment
from farm.workers.faults import TaskError
from farm.workers.protocol import WorkerReport


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """A worker has been given a task."""

    assignment: Assignment[Clip]


@dataclass(frozen=True, slots=True)
class TaskStepped:
    """A task has got on."""

    assignment: Assignment[Clip]
    step: Step


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A task is done. seconds: of each worker that was at it. made: by muxing alone."""

    assignment: Assignment[Clip]
    refs: Sequence[Ref]
    seconds: Sequence[float]
    made: Made | None = None


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An attempt at a task has failed. seconds: that it took."""

    assignment: Assignment[Clip]
    error: TaskError
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckpointFound:
    """A clip whose results were lost can go on from this step."""

    clip: Clip
    step: int


@dataclass(frozen=True, slots=True)
class Committed:
    """A clip's result is in the store."""

    clip: Clip
    result: ClipResult


@dataclass(frozen=True, slots=True)
class ClipBroken:
    """The farm itself failed at a clip, by an error that nobody expected."""

    clip: Clip
    error: str


TaskReport = TaskStarted | TaskStepped | TaskDone | TaskFailed
ClipReport = CheckpointFound | Committed | ClipBroken
Report = WorkerReport | TaskReport | ClipReport
