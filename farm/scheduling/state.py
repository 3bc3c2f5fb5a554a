"""What the scheduler keeps: clips under way, workers, and the tasks assigned to them. Pure."""

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from farm.model.plan import Kind, Task

AGING_S = 60.0  # of waiting that are worth one point of priority


class Reason(StrEnum):
    """Why a task went to its worker."""

    NEXT = "next in order"
    STAYS = "the clip is there already"
    MODEL = "its model is loaded there"
    ELSEWHERE = "another worker than the one that failed"
    ONLY = "it failed there, but there is no other worker"


class Fault(StrEnum):
    """Why a task failed."""

    REQUEST = "request"  # no attempt can succeed
    ERROR = "error"
    LOST = "lost"  # the worker died
    MEMORY = "memory"  # out of GPU memory
    STORE = "store"  # neither the worker's fault nor the request's
    STOPPED = "stopped"  # it was asked to stop
    STALE = "stale"  # an input that it needs is gone
    GANG = "gang"  # another worker that shared the task was gone, or late


@dataclass(frozen=True, slots=True)
class Urgency:
    """Which tenant a job's or a clip's work counts for, and how soon it is to be done.

    A clip has the combined urgency of the jobs that wait for it.
    """

    tenant: str
    submitted: float
    priority: int = 50
    held: bool = False  # paused: no task of it starts

    @property
    def rank(self) -> float:
        """The sort key among the tenant's work, lowest first; constant, as all work ages alike."""
        return self.submitted - self.priority * AGING_S


@dataclass(slots=True, eq=False)
class Run:
    """A clip under way, as far as the scheduler needs to know it."""

    id: str
    model: Hashable  # that a worker must have loaded
    urgency: Urgency
    order: int = 0  # clips of the same rank go in the order in which they were added
    gone: bool = False  # withdrawn or finished
    rewinds: int = 0
    last_renderer: str = ""  # by name
    plan: Iterator[Task] = field(default_factory=lambda: iter(()))  # the tasks not taken yet
    next: Task | None = None  # taken last; it needs tasks that are unfinished
    unfinished: set[str] = field(default_factory=set)  # tasks taken from the plan and not done
    ready: dict[str, tuple[int, Task]] = field(default_factory=dict)  # with its last entry's number
    delayed: int = 0  # how many of the ready tasks wait until their retry is due
    running: dict[str, "Assignment[Any]"] = field(default_factory=dict)  # by worker
    stale_up_to: int = 0  # assignments up to this number are stale
    attempts: Counter[str] = field(default_factory=Counter)  # by task
    avoid: dict[str, set[str]] = field(default_factory=dict)  # the workers that failed each task
    low_memory: set[str] = field(default_factory=set)  # tasks that ran out of memory
    unshared: set[str] = field(default_factory=set)  # tasks that workers no longer share

    @property
    def done(self) -> bool:
        """Whether no task is left."""
        return not self.unfinished and self.next is None


R = TypeVar("R", bound=Run)


@dataclass(slots=True, eq=False)
class Assignment(Generic[R]):
    """An attempt at a task, by one worker or by several that share it."""

    worker: str  # the first of them
    run: R
    task: Task
    number: int  # unique among a scheduler's assignments
    attempt: int  # at this task, from 1
    low_memory: bool  # whether to use as little GPU memory as the same pixels allow
    reason: Reason
    helpers: tuple[str, ...]  # the workers that share the task
    progressed_at: float  # when it was assigned, or last reported progress
    loaded: bool = False  # whether its worker has loaded the model and begun

    @property
    def members(self) -> tuple[str, ...]:
        """All workers of the task."""
        return (self.worker, *self.helpers)


# An entry of a heap of ready tasks: the clip's rank and order, the entry's number, clip and task.
Entry = tuple[float, int, int, R, Task]


def may_start(entry: Entry[Any]) -> bool:
    """Whether an entry is the latest of its task, and the clip is not held."""
    _, _, number, run, task = entry
    return not run.urgency.held and run.ready.get(task.key, (0,))[0] == number


@dataclass(slots=True, eq=False)
class WorkerState:
    """What the scheduler knows of a worker, which is idle if it has no task and is not draining."""

    name: str
    kind: Kind
    memory: int | None = None  # bytes of its GPU that it may use; None if there is no known limit
    model: Hashable = None  # loaded
    task: Assignment[Any] | None = None
    draining: bool = False

    @property
    def activity(self) -> str:
        """What it does, in a word for people."""
        if self.draining:
            return "draining" if self.task else "drained"
        return "busy" if self.task else "idle"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a failed attempt."""

    failed: bool  # the clip fails
    retry_at: float | None = None
    restart_worker: bool = False  # the worker has failed too many clips in a row


class Strikes:
    """The different clips that each worker has failed in a row."""

    def __init__(self, most: int) -> None:
        """most: the number of clips after which a worker is to be restarted."""
        self._most = most
        self._clips: dict[str, set[str]] = {}

    def add(self, worker: str, clip: str) -> bool:
        """Note that a worker has failed a clip; returns whether to restart the worker."""
        clips = self._clips.setdefault(worker, set())
        clips.add(clip)
        if len(clips) < self._most:
            return False
        del self._clips[worker]
        return True

    def clear(self, worker: str) -> None:
        """Note that a worker has finished a task."""
        self._clips.pop(worker, None)
