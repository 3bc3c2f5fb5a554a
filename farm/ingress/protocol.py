"""What the front door asks of a farm; and one that passes it on to the coordinator."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from farm.background import Background
from farm.model.job import LOG_PAGE, Job, JobView, LogEntry, Submission
from farm.store import KnownStore, Store, open_store

STORE_S = 10.0  # of patience with a store that is away: somebody waits for its answer


class Farm(Protocol):
    """A farm. Its methods raise FarmErrors."""

    async def submit(self, submission: Submission, picture: bytes) -> JobView:
        """Take a job on; it is in the store once this returns."""

    async def check(self, submission: Submission, picture: bytes) -> tuple[Job, int]:
        """The job that `submit` would make, and how many of its clips are in the store already."""

    async def find(self, job: str) -> JobView | None:
        """A job, and how far it is; None where there is none."""

    async def views(self, tenant: str, after: str, limit: int, newest_first: bool) -> list[JobView]:
        """A tenant's jobs, those that come after id `after`."""

    async def cancel(self, job: str) -> JobView:
        """Stop a job; back when its worker is free."""

    async def pause(self, job: str) -> JobView:
        """Begin no more of its tasks until it is resumed."""

    async def resume(self, job: str) -> JobView:
        """Go on with a paused job."""

    async def delete(self, job: str) -> None:
        """Stop a job, and forget it."""

    async def watch(self, jobs: Sequence[str], after: int) -> tuple[int, list[JobView]]:
        """Jobs that changed after version `after`, and the version now. Waits a while for some."""

    async def events(self, job: str, after: int) -> list[LogEntry]:
        """A job's event log from after entry `after` on."""

    async def status(self) -> dict[str, Any]:
        """Workers and what each does; jobs by tenant and state."""

    async def drain(self, worker: str, draining: bool) -> dict[str, Any]:
        """Give a worker no more tasks, or some again; the farm's status."""

    async def store(self) -> Store:
        """Where the farm keeps what it makes."""


class CalledFarm:
    """A Farm whose methods are calls of the coordinator's, by name."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call
        self._store: Store | None = None
        self._background = Background(1)
        self._asked: dict[str, asyncio.Future[JobView | None]] = {}
        self._finding = False

    async def submit(self, submission: Submission, picture: bytes) -> JobView:
        view: JobView = await self._call("submit", submission, picture)
        return view

    async def check(self, submission: Submission, picture: bytes) -> tuple[Job, int]:
        checked: tuple[Job, int] = await self._call("check", submission, picture)
        return checked

    async def find(self, job: str) -> JobView | None:
        asked = self._asked.setdefault(job, asyncio.get_running_loop().create_future())
        if not self._finding:
            self._finding = True
            self._background.start(self._find())
        return await asyncio.shield(asked)

    async def _find(self) -> None:
        """Ask for what was asked since the last call: polls outnumber all else."""
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                views = await self._call("find_all", list(asked))
            except Exception as error:
                for future in asked.values():
                    future.set_exception(error)
            else:
                for future, view in zip(asked.values(), views, strict=True):
                    future.set_result(view)
        self._finding = False

    async def views(self, tenant: str, after: str, limit: int, newest_first: bool) -> list[JobView]:
        views: list[JobView] = await self._call("views", tenant, after, limit, newest_first)
        return views

    async def cancel(self, job: str) -> JobView:
        view: JobView = await self._call("cancel", job)
        return view

    async def pause(self, job: str) -> JobView:
        view: JobView = await self._call("pause", job)
        return view

    async def resume(self, job: str) -> JobView:
        view: JobView = await self._call("resume", job)
        return view

    async def delete(self, job: str) -> None:
        await self._call("delete", job)

    async def watch(self, jobs: Sequence[str], after: int) -> tuple[int, list[JobView]]:
        news: tuple[int, list[JobView]] = await self._call("watch", list(jobs), after)
        return news

    async def events(self, job: str, after: int) -> list[LogEntry]:
        entries: list[LogEntry] = []
        while True:
            page: list[LogEntry] = await self._call("events", job, after)
            entries += page
            if len(page) < LOG_PAGE:
                return entries
            after = page[-1].seq

    async def status(self) -> dict[str, Any]:
        status: dict[str, Any] = await self._call("status")
        return status

    async def drain(self, worker: str, draining: bool) -> dict[str, Any]:
        status: dict[str, Any] = await self._call("drain", worker, draining)
        return status

    async def store(self) -> Store:
        if self._store is None:
            there = await self._call("ready")
            store = open_store(there["store"], make=False, patience_s=STORE_S)
            self._store = KnownStore(store, there["store_id"])
        return self._store
