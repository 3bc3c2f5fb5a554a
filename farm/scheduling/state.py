"""The scheduler's vocabulary: clips under way, workers, and who does what, and why. Pure."""

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
    """On whose account work is done, and how soon.

    A job has one, and so has a clip: that of the jobs which wait for it, taken together.
    """

    tenant: str
    submitted: float
    priority: int = 50
    held: bool = False  # paused: no task of it starts

    @property
    def rank(self) -> float:
        """The place among the tenant's work; the lowest is next. Waiting changes no order."""
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
    plan: Iterator[Task] = field(default_factory=lambda: iter(()))  # tasks not drawn yet
    next: Task | None = None  # drawn last; it waits for tasks that are unfinished
    unfinished: set[str] = field(default_factory=set)  # tasks that were drawn and are not done
    ready: dict[str, tuple[int, Task]] = field(default_factory=dict)  # with the number of its entry
    delayed: int = 0  # how many of those that are ready wait for a retry to be due
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
    low_memory: bool  # with as little memory as the same pixels need
    reason: Reason
    helpers: tuple[str, ...]  # the workers that share the task
    progressed_at: float  # when it was assigned, or last seen to get on
    loaded: bool = False  # whether its worker has the model loaded, and has begun

    @property
    def members(self) -> tuple[str, ...]:
        """All workers of the task."""
        return (self.worker, *self.helpers)


# An entry of a heap of ready tasks: the clip's rank and order, the entry's number, clip and task.
Entry = tuple[float, int, int, R, Task]


def may_start(entry: Entry[Any]) -> bool:
    """Whether a heap's entry is the latest of its task, and the task may start."""
    _, _, number, run, task = entry
    return not run.urgency.held and run.ready.get(task.key, (0,))[0] == number


@dataclass(slots=True, eq=False)
class WorkerState:
    """What the scheduler knows of a worker. One with no task is idle, unless it is draining."""

    name: str
    kind: Kind
    memory: int | None = None  # bytes of its GPU that it may use; None where no limit is known
    model: Hashable = None  # loaded
    task: Assignment[Any] | None = None
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a failed attempt."""

    failed: bool  # the clip fails
    retry_at: float | None = None
    restart_worker: bool = False  # the worker has failed too many clips in a row
