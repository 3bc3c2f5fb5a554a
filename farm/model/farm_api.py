"""What a farm can do, as one typed protocol: the coordinator implements it, and clients call it."""

from collections.abc import Sequence
from datetime import date
from typing import Any, Protocol, TypedDict

from farm.model.job import JobRecord, JobView, LogEntry, Submission
from farm.model.request import Model, ModelFacts
from farm.model.retention import Freed
from farm.model.usage import FIRST_DAY, ByDay
from farm.store import Store


class Ready(TypedDict):
    """Which farm answers."""

    version: str  # of the engine's package
    numerics: int  # of the engine: results of other numerics have other pixels
    store: str  # its URL
    store_id: str
    fence: int  # the coordinator's fencing token: how many coordinators the store has had
    pid: int
    max_pixels: int  # of a picture


class ReadOnlyFarm(Protocol):
    """The calls that need only a store, and no running farm."""

    async def show(self, job: str) -> JobView:
        """A job and its progress. Raises JobError if there is no such job."""
        ...

    async def jobs(
        self, after: str = "", limit: int = 100, open_only: bool = False
    ) -> list[JobRecord]:
        """Jobs of all tenants, oldest first, from the one after id `after` on."""
        ...

    async def events(self, job: str, after: int = 0) -> list[LogEntry]:
        """A job's event log after entry `after`: at least LOG_PAGE entries, or the rest."""
        ...

    async def usage(self, since: date = FIRST_DAY) -> ByDay:
        """What tenants used from a day on, in jobs that have ended, deleted ones included."""
        ...

    async def garbage(self) -> list[Freed]:
        """What `collect_garbage` would delete now, by kind and tenant."""
        ...


class FarmApi(ReadOnlyFarm, Protocol):
    """A farm. Its methods raise FarmErrors, and all are idempotent.

    A call is lost if the coordinator's process ends, so callers in other processes repeat it until
    it is answered.
    """

    async def ready(self) -> Ready:
        """Wait until open jobs are taken over. Raises StoreError if the store cannot be used."""
        ...

    async def describe(self, model: Model) -> ModelFacts:
        """A model's digest and defaults. Raises RequestError if there is no such model."""
        ...

    async def submit(self, submission: Submission, picture: bytes) -> JobView:
        """Accept a job: once this returns, it is in the store and will be finished.

        picture: the bytes of an image file. A submission that is sent again, with the same id, is
        the same job. Raises RequestError, QueueFullError, StoreError, or JobError if the id is
        another job's.
        """
        ...

    async def submit_stored(self, submission: Submission, digest: str) -> JobView:
        """Like `submit`, by the digest of a picture that the caller has checked and stored.

        Raises PictureMissingError if only the picture is missing from the store; the caller then
        writes it and submits again.
        """
        ...

    async def check(self, submission: Submission, digest: str) -> tuple[JobRecord, int]:
        """The job that `submit` would make, and how many of its clips are in the store already.

        digest: of a picture that was checked; it need not be in the store.
        """
        ...

    async def find(self, job: str) -> JobView | None:
        """A job and its progress; None if there is no such job."""
        ...

    async def find_all(self, jobs: Sequence[str]) -> list[JobView | None]:
        """Like `find`, for several jobs."""
        ...

    async def views(self, tenant: str, after: str, limit: int, newest_first: bool) -> list[JobView]:
        """A tenant's jobs with their progress, from the one after id `after` on."""
        ...

    async def watch(
        self, jobs: Sequence[str], after: int, timeout_s: float = 10.0
    ) -> tuple[int, list[JobView]]:
        """The current version, and those of `jobs` that changed after version `after`.

        Waits up to `timeout_s` for a change. After a restart all jobs count as changed.
        """
        ...

    async def cancel(self, job: str) -> JobView:
        """Stop a job at its next step or chunk.

        Returns once no worker runs it any more; the view has the GPU seconds that it took.
        """
        ...

    async def delete(self, job: str) -> None:
        """Stop a job and delete its record, and what no other job names: its picture, its clips."""
        ...

    async def pause(self, job: str) -> JobView:
        """Start no more tasks of a job until it is resumed; those that run are finished."""
        ...

    async def resume(self, job: str) -> JobView:
        """Continue a paused job."""
        ...

    async def set_priority(self, job: str, priority: int) -> JobView:
        """Change an open job's priority, 0 to 100."""
        ...

    async def collect_garbage(self) -> list[Freed]:
        """Delete the jobs that are past keeping, and what no job names; returns what it was."""
        ...

    async def drain(self, worker: str, draining: bool = True) -> dict[str, Any]:
        """Give a worker no more tasks, or (draining=False) some again; returns the status."""
        ...

    async def status(self) -> dict[str, Any]:
        """The workers and what each does, and the number of jobs by tenant and state."""
        ...

    async def store(self) -> Store:
        """The farm's store."""
        ...
