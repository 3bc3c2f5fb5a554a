"""Quotas of tenants: the GPU seconds that they may use on a day, and the bytes that they may store.

A tenant that has used up its day is held, not refused: its jobs wait until midnight, UTC. A tenant
that has stored too much cannot submit more until some of its jobs are deleted.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import date

from farm.clock import Clock, utc_day
from farm.coordinator.clips import ClipEvent, Finished
from farm.coordinator.reports import Report, TaskDone, TaskFailed
from farm.errors import QuotaError, StoreError
from farm.model.job import JobRecord
from farm.model.usage import ByDay
from farm.quantities import sized
from farm.records.open_jobs import OpenJobs
from farm.settings import Settings

log = logging.getLogger("farm")

COUNT_S = 30.0  # the least time between two counts of all that is stored
COUNT_SHARE = 10  # and at least so many times as long as a count takes
STALE_S = 3600.0  # after which a count is repeated even if nobody would be refused
RECORDS = 10_000  # bytes that a job's record, log and index entries are taken to need


class Quotas:
    """What tenants have used today and what they have stored, and who is beyond its quota."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        open_jobs: OpenJobs,
        read_usage: Callable[[date], Awaitable[ByDay]],
        count_stored: Callable[[], Awaitable[Mapping[str, int]]],
        size_of: Callable[[str], Awaitable[int]],
        read_job: Callable[[str], Awaitable[JobRecord | None]],
    ) -> None:
        """read_usage: reads what tenants used from a day on, in jobs that have ended.

        count_stored: counts the bytes that each tenant has stored. size_of: the bytes of a picture.
        read_job: reads a job's record; None if there is none.
        """
        self._settings, self._clock, self._open = settings, clock, open_jobs
        self._read_usage, self._count_stored = read_usage, count_stored
        self._size_of, self._read_job = size_of, read_job
        self._day = self._today()
        self._used = defaultdict[str, float](float)  # GPU seconds by tenant
        self._stored = Counter[str]()  # bytes by tenant, when last counted
        self._since = Counter[str]()  # and those that came since that count began
        self._pictures = set[tuple[str, str]]()  # by tenant, of those
        self._again_at = 0.0  # when the next count may begin
        self._stale_at: float | None = None  # when the last one is too old; None if there is none
        self._counting = asyncio.Lock()

    async def load(self) -> None:
        """Find out what was used today. Call it before any job ends. Raises StoreError.

        What open jobs have used counts for today, even if it was earlier.
        """
        self._day = self._today()
        self._used.clear()
        if self._settings.max_gpu_seconds:
            for (_, tenant), usage in (await self._read_usage(self._day)).items():
                self._used[tenant] += usage.gpu_seconds
            for job in self._open.values():
                self._used[job.tenant] += job.gpu_seconds

    def count_report(self, report: Report) -> None:
        """Charge a task that has ended to the tenant whose clip it was of."""
        match report:
            case TaskDone(assignment, seconds=each):
                self._charge(assignment.run.urgency.tenant, sum(each))
            case TaskFailed(assignment, seconds=spent):
                self._charge(assignment.run.urgency.tenant, spent)

    def held(self) -> dict[str, str]:
        """The tenants that have used up their day, and why their jobs wait."""
        if not self._settings.max_gpu_seconds:
            return {}
        self._begin_day()
        limits = {tenant: self._settings.gpu_seconds_of(tenant) for tenant in self._used}
        return {
            tenant: f"tenant {tenant!r} has used its {limit:g} GPU seconds of {self._day} "
            "(FARM_MAX_GPU_SECONDS); its jobs go on at 00:00 UTC"
            for tenant, limit in limits.items()
            if limit is not None and self._used[tenant] >= limit
        }

    async def check_room(self, job: JobRecord) -> None:
        """Raise QuotaError if a new job's tenant has stored all that it may, or StoreError.

        Until all that is stored was first counted, nobody is refused. A job that was accepted
        before is not new: its call is only repeated.
        """
        tenant, limit = job.tenant, self._settings.stored_bytes_of(job.tenant)
        if limit is None or self._stale_at is None or self._stored_by(tenant) < limit:
            return
        if await self._read_job(job.id) is not None:
            return
        if self._clock.monotonic() >= self._again_at:
            await self.count()  # some jobs may have been deleted
        stored = self._stored_by(tenant)
        if stored >= limit:
            raise QuotaError(
                f"tenant {tenant!r} has stored {sized(stored)}, and may store {sized(limit)} "
                "(FARM_MAX_STORED_BYTES): delete some of its jobs"
            )

    async def keep_counting(self) -> None:
        """Count all that is stored, if anybody's is limited, every STALE_S, for ever."""
        while True:
            stale = self._stale_at is None or self._clock.monotonic() >= self._stale_at
            if self._settings.max_stored_bytes and stale:
                try:
                    await self.count()
                except StoreError as error:
                    log.warning("what tenants have stored cannot be counted yet: %s", error)
            await asyncio.sleep(COUNT_S)

    async def count(self) -> None:
        """Count all that is stored. Of calls at the same time, one counts. Raises StoreError."""
        waited = self._counting.locked()
        async with self._counting:
            if waited and self._stale_at is not None:
                return
            began = self._clock.monotonic()
            self._stored, self._since = self._stored + self._since, Counter()
            self._pictures.clear()
            self._stored = Counter(await self._count_stored())
            now = self._clock.monotonic()
            self._again_at = now + max(COUNT_S, COUNT_SHARE * (now - began))
            self._stale_at = now + STALE_S

    async def count_job(self, job: JobRecord) -> None:
        """Count a new job, with its picture. If that cannot be sized now, the next count has it."""
        if self._settings.stored_bytes_of(job.tenant) is None:
            return
        self._since[job.tenant] += RECORDS
        picture = job.tenant, job.request.picture
        if picture not in self._pictures:
            self._pictures.add(picture)
            with suppress(StoreError):
                self._since[job.tenant] += await self._size_of(job.request.picture)

    def count_event(self, event: ClipEvent) -> None:
        """Count the bytes of a clip that was rendered, for each tenant that has it."""
        if isinstance(event, Finished):
            jobs = (self._open.get(name) for name in event.clip.jobs)
            for tenant in {job.tenant for job in jobs if job is not None}:
                self._since[tenant] += event.result.bytes

    def _stored_by(self, tenant: str) -> int:
        return self._stored[tenant] + self._since[tenant]

    def _charge(self, tenant: str, seconds: float) -> None:
        self._begin_day()
        self._used[tenant] += seconds

    def _begin_day(self) -> None:
        if self._today() != self._day:
            self._day = self._today()
            self._used.clear()

    def _today(self) -> date:
        return utc_day(self._clock.now())
