"""What the scheduler speaks of: clips being rendered, workers, and what does which, why. Pure."""

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from farm.model.plan import Kind, Task

AGING_S = 60.0  # of waiting, worth a point of priority


class Reason(StrEnum):
    """Why a task went to that worker."""

    NEXT = "next in order"
    STAYS = "the clip is there already"
    MODEL = "its model is loaded there"
    ELSEWHERE = "another worker than the one that failed"
    ONLY = "it failed there, but there is no other worker"


class Fault(StrEnum):
    """Why a task was not done."""

    REQUEST = "request"  # no attempt can mend it
    ERROR = "error"
    LOST = "lost"  # its worker died
    MEMORY = "memory"  # out of GPU memory
    STORE = "store"  # not the worker's fault, nor the request's
    STOPPED = "stopped"  # as was asked
    STALE = "stale"  # what it was given is gone
    GANG = "gang"  # another of the workers that shared it was gone, or too late


def rank_of(submitted: float, priority: int) -> float:
    """A place among a tenant's; lower goes first. Aging moves all ranks alike."""
    return submitted - priority * AGING_S


@dataclass(slots=True, eq=False)
class Run:
    """A clip being rendered."""

    id: str
    tenant: str
    model: Hashable
    submitted: float
    priority: int = 50
    order: int = 0  # of being added
    held: bool = False  # paused
    gone: bool = False  # withdrawn or finished
    rewinds: int = 0
    home: str = ""  # the renderer that had it last
    plan: Iterator[Task] = field(
        default_factory=lambda: iter(())
    )  # the tasks that are not near yet
    next: Task | None = None  # the first of them: it waits for what is unfinished
    unfinished: set[str] = field(default_factory=set)  # tasks that are near, and not done
    ready: dict[str, tuple[int, Task]] = field(default_factory=dict)  # and their place in a heap
    delayed: int = 0  # of those that are ready: tasks that wait to be tried again
    running: dict[str, "Assignment"] = field(default_factory=dict)  # by worker
    since: int = 0  # what was assigned before this number is stale
    attempts: Counter[str] = field(default_factory=Counter)  # by task
    avoid: dict[str, set[str]] = field(default_factory=dict)  # workers that failed it, by task
    lean: set[str] = field(default_factory=set)  # tasks that ran out of memory
    alone: set[str] = field(default_factory=set)  # tasks that are not to be shared any more

    @property
    def rank(self) -> float:
        """Its place among the tenant's."""
        return rank_of(self.submitted, self.priority)

    @property
    def done(self) -> bool:
        """Whether no task of it is left."""
        return not self.unfinished and self.next is None


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A task on a worker, or on several."""

    worker: str  # the first of them
    run: Run
    task: Task
    number: int  # no other assignment has it
    attempt: int  # of this task, from 1
    lean: bool  # with as little memory as the same pixels need
    reason: Reason
    helpers: tuple[str, ...] = ()  # that share it

    @property
    def members(self) -> tuple[str, ...]:
        """All workers that are at it."""
        return (self.worker, *self.helpers)


# Of a heap of ready tasks, the best first: the clip's rank and order, the task's number and itself.
Entry = tuple[float, int, int, Run, Task]


def counts(entry: Entry) -> bool:
    """Whether a heap's entry is the latest of its task, and the task may start."""
    _, _, number, run, task = entry
    return not run.held and run.ready.get(task.key, (0,))[0] == number


@dataclass(slots=True, eq=False)
class Worker:
    """What the scheduler knows of a worker. It is idle where it has no task and is not draining."""

    name: str
    kind: Kind
    memory: int | None = None  # bytes of a GPU that are its own; None: no limit is known
    model: Hashable = None  # loaded
    task: Assignment | None = None
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a task that was not done."""

    failed: bool  # the clip is to fail
    retry_at: float | None = None
    set_aside: bool = False  # the worker has failed too many clips in a row
