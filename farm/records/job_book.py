"""The book of jobs: it keeps open jobs in memory and all jobs in the store, and alone writes both.

Readers see a change to a job only after it is stored.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from sortedcontainers import SortedSet

from farm.background import Background
from farm.errors import ConflictError, JobError, StoreError
from farm.logs import bound
from farm.model.job import Event, JobRecord, Opened, advance
from farm.model.trail import trail_of
from farm.records.event_logs import EventLogs
from farm.records.open_jobs import OpenJobs
from farm.records.salvage import log_keys, read_job
from farm.records.tenant_index import TenantIndex, page_of_ids
from farm.store import Store, is_key
from farm.store.keys import JOBS, OPEN, job_key, job_of, open_job_of, open_key, use_key
from farm.store.retry import retry_until_stored
from svd_engine import NUMERICS

log = logging.getLogger("farm")

WRITERS = 4  # records written at once by `save_recovered`
CLOSED_KEPT = 10_000  # finished jobs that are kept in memory


class JobBook:
    """The records and event logs of all jobs."""

    def __init__(
        self,
        store: Store,
        background: Background,
        fence: int,
        changed: Callable[[str], None],
        ended: Callable[[JobRecord], Awaitable[None]],
        superseded: Callable[[], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """fence: this coordinator's fencing token.

        changed: called with a job's id when readers see a new state of it.

        ended: awaited with each job that has ended, after its end is stored and before the job
        leaves the index of open jobs. It is called again after a StoreError or a restart.
        superseded: called when another coordinator has written a record of this one.
        wall: the wall clock.
        """
        self.open = OpenJobs()  # the current state of open jobs; `_shown` is what is stored
        self._fence, self._changed = fence, changed
        self._ended, self._superseded = ended, superseded
        self._store, self._background, self._wall = store, background, wall
        self._shown: OrderedDict[str, JobRecord] = OrderedDict()
        self._ids: SortedSet[str] | None = None  # of all jobs; None until first needed
        self._tenants: dict[str, str] = {}  # the tenants of jobs that were read
        self._etags: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.logs = EventLogs(store, changed, wall)
        self.tenants = TenantIndex(store, background)

    async def create(self, job: JobRecord) -> tuple[JobRecord, bool]:
        """Write a new job, and return it and True.

        If the job was already written by an earlier call, return the stored one and False. Raises
        JobError if a different job has the same id.
        """
        async with self._locks.setdefault(job.id, asyncio.Lock()):
            return await self._create(job.model_copy(update={"fence": self._fence}))

    async def _create(self, job: JobRecord) -> tuple[JobRecord, bool]:
        opened = Opened(job=job.id, tenant=job.tenant).model_dump_json().encode()
        await asyncio.gather(
            self._background.call(self._store.put, open_key(job.id), opened),
            self.tenants.add(job.tenant, job.id),
            self._background.call(self._store.put, use_key(job.request.picture, job.id), b""),
        )
        data = job.model_dump_json().encode()
        try:
            etag = await self._background.call(
                lambda: self._store.put(job_key(job.id), data, if_none_match=True)
            )
        except ConflictError:
            stored = await self._background.call(read_job, self._store, job.id)
            if stored is None or not _is_same(stored[0], job):
                raise JobError(
                    f"{job.id} is another job: give a new id or idempotency key"
                ) from None
            former, etag = stored
            if not former.state.is_open:
                await self._background.call(self._store.delete, open_key(job.id))
            if not former.state.is_open or job.id in self.open:
                return former, False
            # An earlier call wrote the record but failed, so no coordinator has taken the job up.
            job = former
        self._etags[job.id] = etag
        if self._ids is not None:
            self._ids.add(job.id)
        self.logs.begin(job.id)
        self.open[job.id] = job
        self._show(job)
        self.log_event(job.id, "submitted", tenant=job.tenant)
        return job, True

    def transition(self, job: str, event: Event, **changes: Any) -> "asyncio.Task[JobRecord]":
        """Apply an event to an open job; the returned task ends once the change is stored.

        Raises JobError if the job is not open, or the event is not allowed in its state.
        """
        if job not in self.open:
            raise JobError(f"{job} is finished, or there is no such job: it cannot {event}")
        now = self._wall()
        self._enter(advance(self.open[job], event, now, self._fence, **changes), event)
        return self.save_in_background(job)

    def _enter(self, job: JobRecord, event: Event) -> JobRecord:
        self.open[job.id] = job
        data = {"state": job.state} | ({"error": job.error} if job.error else {})
        self.log_event(job.id, event, **data)
        return job

    def update_in_memory(self, job: str, **changes: Any) -> None:
        """Change fields of an open job; they are stored when it is next saved."""
        self.open[job] = self.open[job].model_copy(update=changes)

    def save_in_background(self, job: str) -> "asyncio.Task[JobRecord]":
        """Store an open job's current state; retried until the store accepts it."""
        return self._background.start(self._save(job))

    def finish_times(self, count: int, tenant: str | None = None) -> list[float]:
        """When the last `count` jobs of a tenant, or of all, finished, oldest first."""
        jobs = (
            job.finished_at
            for job in reversed(self._shown.values())
            if job.finished_at and tenant in (None, job.tenant)
        )
        return sorted(islice(jobs, count))

    async def read(self, job: str) -> JobRecord | None:
        """A job from memory or from the store; None if there is no such job."""
        if job in self._shown:
            return self._shown[job]
        if not is_key(job_key(job)):
            return None
        try:
            stored = await self._background.read(read_job, self._store, job)
        except ConflictError:  # the record was written while `read_job` was repairing it
            stored = await self._background.read(read_job, self._store, job)
        return stored[0] if stored else None

    async def read_all(self, jobs: Iterable[str]) -> list[JobRecord]:
        """Read several jobs; ids that do not exist are left out."""
        found = await asyncio.gather(*(self.read(job) for job in jobs))
        return [job for job in found if job is not None]

    async def read_of(self, tenant: str, jobs: Iterable[str]) -> list[JobRecord]:
        """Read those of the jobs that belong to a tenant; another's is read once at most."""
        found = await self.read_all(j for j in jobs if self._tenants.get(j, tenant) == tenant)
        self._tenants.update((job.id, job.tenant) for job in found)
        return [job for job in found if job.tenant == tenant]

    async def ids(self, after: str, limit: int, newest_first: bool = False) -> list[str]:
        """A page of the ids of all jobs, oldest or newest first, that come after `after`."""
        if self._ids is None:
            keys = await self._background.read(lambda: list(self._store.list(JOBS)))
            found = {job for key in keys if (job := job_of(key))}
            self._ids = SortedSet(found.union(self._shown))  # some may be newer than the listing
        return page_of_ids(self._ids, after, limit, newest_first)

    async def ids_of(self, tenant: str, after: str, limit: int, newest_first: bool) -> list[str]:
        """Like `ids` for one tenant's jobs; until the index is complete, the ids of all jobs."""
        if self.tenants.whole:
            return await self.tenants.ids(tenant, after, limit, newest_first)
        return await self.ids(after, limit, newest_first)

    async def delete(self, job: str) -> None:
        """Delete the record and the event log of a job that is not open."""
        async with self._locks.setdefault(job, asyncio.Lock()):
            record = await self.read(job)
            await self._background.call(self._store.delete, job_key(job))
            for key in await self._background.call(log_keys, self._store, job):
                await self._background.call(self._store.delete, key)
            if record is not None:
                await self.tenants.remove(record.tenant, job)
            self._shown.pop(job, None)
            self._tenants.pop(job, None)
            if self._ids is not None:
                self._ids.discard(job)
        self._locks.pop(job, None)
        self._changed(job)

    async def delete_leftovers(self, job: str, keys: Iterable[str]) -> bool:
        """Delete objects that a job has left behind, unless it has a record after all."""
        async with self._locks.setdefault(job, asyncio.Lock()):
            if await self._background.call(self._store.exists, job_key(job)):
                return False
            for key in keys:
                await self._background.call(self._store.delete, key)
        return True

    async def recover(self) -> list[JobRecord]:
        """Read the jobs that an earlier coordinator left open, and take them over.

        Nothing is stored yet: call `save_recovered` afterwards.
        """
        keys = await self._background.call(lambda: list(self._store.list(OPEN)))
        ids = list(filter(None, map(open_job_of, keys)))
        chunks = await self._background.read_in_chunks(partial(_read_jobs, self._store), ids)
        found = [pair for chunk in chunks for pair in chunk]
        jobs = [await self._take_over(name, stored) for name, stored in found]
        return [job for job in jobs if job is not None]

    async def save_recovered(self) -> None:
        """Store the jobs that were taken over, a few at a time, so that other requests get through.

        Start this only once the coordinator has started: a start that fails is repeated, and reads
        the jobs from the store again.
        """
        names = iter(list(self.open))
        await asyncio.gather(*(self._save_each(names) for _ in range(WRITERS)))

    async def _save_each(self, names: Iterator[str]) -> None:
        for name in names:
            if name in self.open:
                await self._save(name)

    def log_event(self, job: str, event: str, **data: Any) -> None:
        """Add an entry to a job's event log, as `EventLogs.add` does."""
        self.logs.add(job, event, data)

    async def _take_over(self, name: str, stored: tuple[JobRecord, str] | None) -> JobRecord | None:
        if stored is None or not stored[0].state.is_open:
            if stored is not None:
                await self._ended(stored[0])
                await self.logs.add_end(stored[0])
            # The job is finished, or was never written and therefore never acknowledged.
            await self._background.call(self._store.delete, open_key(name))
            return None
        job, self._etags[name] = stored
        changes = {}
        if job.request.numerics != NUMERICS:  # the rest is rendered by this version's numerics
            changes["request"] = job.request.model_copy(update={"numerics": NUMERICS})
        recovered = advance(job, Event.RECOVER, self._wall(), self._fence, **changes)
        return self._enter(recovered, Event.RECOVER)

    async def _save(self, name: str) -> JobRecord:
        async with self._locks.setdefault(name, asyncio.Lock()):
            job = self.open.get(name)
            if job is None or job == self._shown.get(name):
                return self._shown[name]  # an earlier save wrote it
            with bound(**trail_of(job).fields):
                await retry_until_stored(
                    partial(self._write, job), f"{name}: its record cannot be written yet"
                )
                if not job.state.is_open:
                    await retry_until_stored(
                        partial(self._ended, job), f"{name}: its end cannot be passed on yet"
                    )
                    await self._close(name)
            self._show(job)
            return job

    async def _write(self, job: JobRecord) -> None:
        """Write a job's record over the version that this coordinator wrote or read last."""
        put = partial(self._store.put, job_key(job.id), job.model_dump_json().encode())
        try:
            self._etags[job.id] = await self._background.call(
                partial(put, if_match=self._etags[job.id])
            )
        except ConflictError:
            log.exception("%s was written by another coordinator", job.id)
            self._superseded()
            raise

    async def _close(self, name: str) -> None:
        await self.logs.close(name)
        del self.open[name], self._etags[name]
        try:
            await self._background.call(self._store.delete, open_key(name))
        except StoreError as error:
            log.warning("%s: stays in the index of open jobs until a restart: %s", name, error)

    def _show(self, job: JobRecord) -> None:
        self._shown[job.id] = job
        self._shown.move_to_end(job.id)
        while len(self._shown) > len(self.open) + CLOSED_KEPT:
            oldest = next(name for name in self._shown if name not in self.open)
            del self._shown[oldest]
            self._locks.pop(oldest, None)
        self._changed(job.id)


def _read_jobs(
    store: Store, names: Sequence[str]
) -> list[tuple[str, tuple[JobRecord, str] | None]]:
    return [(name, read_job(store, name)) for name in names]


def _is_same(job: JobRecord, other: JobRecord) -> bool:
    """Whether two jobs of one id are the same request of the same tenant."""
    return (job.request.asked, job.tenant) == (other.request.asked, other.tenant)
