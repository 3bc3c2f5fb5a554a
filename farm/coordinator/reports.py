"""The reports that workers and background tasks send to the dispatcher while clips are rendered."""

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
    """A task has made progress."""

    assignment: Assignment[Clip]
    step: Step


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A task is done. seconds: of each of its workers. made: the result of a mux."""

    assignment: Assignment[Clip]
    refs: Sequence[Ref]
    seconds: Sequence[float]
    made: Made | None = None


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An attempt at a task has failed. seconds: the worker time that it took."""

    assignment: Assignment[Clip]
    error: TaskError
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckpointFound:
    """A clip whose results were lost can continue from this step."""

    clip: Clip
    step: int


@dataclass(frozen=True, slots=True)
class Committed:
    """A clip's result is in the store."""

    clip: Clip
    result: ClipResult


@dataclass(frozen=True, slots=True)
class ClipBroken:
    """An unexpected error in the farm itself ends the clip."""

    clip: Clip
    error: str


TaskReport = TaskStarted | TaskStepped | TaskDone | TaskFailed
ClipReport = CheckpointFound | Committed | ClipBroken
Report = WorkerReport | TaskReport | ClipReport
