"""What a farm can do, as one typed protocol: the coordinator implements it, and clients call it."""

from collections.abc import Sequence
from typing import Any, Protocol, TypedDict

from farm.model.job import JobRecord, JobView, LogEntry, Submission
from farm.model.request import Model, ModelFacts
from farm.store import Store


class Ready(TypedDict):
    """Which farm answers."""

    version: str  # of the engine's package
    numerics: int  # of the engine: results of other numerics have other pixels
    store: str  # its URL
    store_id: str
    fence: int  # how many coordinators the store has had
    pid: int
    max_pixels: int  # of a picture


class FarmApi(Protocol):
    """A farm. Its methods raise FarmErrors, and each call may be repeated.

    A call can be lost with the coordinator's process. Whoever calls over a network therefore sends
    it again, until it is answered.
    """

    async def ready(self) -> Ready:
        """Wait until open jobs are taken over. StoreError: the farm cannot use its store."""
        ...

    async def describe(self, model: Model) -> ModelFacts:
        """A model's digest and defaults. RequestError: there is no such model."""
        ...

    async def submit(self, submission: Submission, picture: bytes) -> JobView:
        """Take a job on: once this returns, it is in the store and will be finished.

        picture: the bytes of an image file. The same submission again (by its id) is the same job.
        Raises RequestError, QueueFullError, StoreError, or JobError where the id is another job's.
        """
        ...

    async def submit_stored(self, submission: Submission, digest: str) -> JobView:
        """As `submit`, by the digest of a picture that the caller has checked and stored.

        PictureMissingError, once all else is in order: the store lacks the picture. The caller then
        writes it and submits again.
        """
        ...

    async def check(self, submission: Submission, digest: str) -> tuple[JobRecord, int]:
        """The job that `submit` would make, and how many of its clips are in the store already.

        digest: of a picture that was checked; it need not be in the store.
        """
        ...

    async def find(self, job: str) -> JobView | None:
        """A job and its progress; None where there is no such job."""
        ...

    async def find_all(self, jobs: Sequence[str]) -> list[JobView | None]:
        """As `find`, for several."""
        ...

    async def show(self, job: str) -> JobView:
        """A job and its progress. JobError: there is no such job."""
        ...

    async def jobs(
        self, after: str = "", limit: int = 100, open_only: bool = False
    ) -> list[JobRecord]:
        """Jobs of all tenants, oldest first, from the one after id `after` on."""
        ...

    async def views(self, tenant: str, after: str, limit: int, newest_first: bool) -> list[JobView]:
        """A tenant's jobs with their progress, from the one after id `after` on."""
        ...

    async def watch(
        self, jobs: Sequence[str], after: int, timeout_s: float = 10.0
    ) -> tuple[int, list[JobView]]:
        """The present version, and those of `jobs` that changed after version `after`.

        Waits up to `timeout_s` for a change. After a restart all jobs count as changed.
        """
        ...

    async def events(self, job: str, after: int = 0) -> list[LogEntry]:
        """A job's event log from after entry `after` on: LOG_PAGE entries or more, or the rest."""
        ...

    async def cancel(self, job: str) -> JobView:
        """Stop a job at its next step or chunk.

        Returns when no worker is at it any more, with the GPU seconds that it took.
        """
        ...

    async def delete(self, job: str) -> None:
        """Stop a job and forget it. Its clips stay: other jobs may ask for the same."""
        ...

    async def pause(self, job: str) -> JobView:
        """Start no more tasks of a job until it is resumed; those under way are finished."""
        ...

    async def resume(self, job: str) -> JobView:
        """Go on with a paused job."""
        ...

    async def set_priority(self, job: str, priority: int) -> JobView:
        """Change an open job's priority, 0 to 100."""
        ...

    async def drain(self, worker: str, draining: bool = True) -> dict[str, Any]:
        """Give a worker no more tasks, or (draining=False) some again; the farm's status."""
        ...

    async def status(self) -> dict[str, Any]:
        """The workers and what each does, and the number of jobs by tenant and state."""
        ...

    async def store(self) -> Store:
        """Where the farm keeps what it makes."""
        ...
