"""Quotas of tenants: the GPU seconds that they may use on a day, and the bytes that they may store.

A tenant that has used up its day is held, not refused: its jobs wait until midnight, UTC. A tenant
that has stored too much cannot submit more until some of its jobs are deleted.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, date, datetime

from farm.clock import Clock
from farm.coordinator.clips import ClipEvent, Finished
from farm.coordinator.reports import Report, TaskDone, TaskFailed
from farm.errors import QuotaError
from farm.model.usage import ByDay
from farm.quantities import sized
from farm.records.open_jobs import OpenJobs
from farm.settings import Settings

COUNT_S = 30.0  # the least time between two counts of all that is stored


class Quotas:
    """What tenants have used today and what they have stored, and who is beyond its quota."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        open_jobs: OpenJobs,
        read_usage: Callable[[date], Awaitable[ByDay]],
        count_stored: Callable[[], Awaitable[Mapping[str, int]]],
    ) -> None:
        """read_usage: reads what tenants used from a day on, in jobs that have ended.

        count_stored: counts the bytes that each tenant has stored.
        """
        self._settings, self._clock, self._open = settings, clock, open_jobs
        self._read_usage, self._count_stored = read_usage, count_stored
        self._day = self._today()
        self._used = defaultdict[str, float](float)  # GPU seconds by tenant
        self._stored: Counter[str] | None = None  # bytes by tenant, when last counted, and since
        self._counted_at = 0.0
        self._counting = asyncio.Lock()

    async def load(self) -> None:
        """Find out what was used today. Call it before any job ends. Raises StoreError."""
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

    async def check_room(self, tenant: str) -> None:
        """Raise QuotaError if a tenant has stored all that it may, or StoreError."""
        limit = self._settings.stored_bytes_of(tenant)
        if limit is None:
            return
        stored = await self._stored_by(tenant, limit)
        if stored >= limit:
            raise QuotaError(
                f"tenant {tenant!r} has stored {sized(stored)}, and may store {sized(limit)} "
                "(FARM_MAX_STORED_BYTES): delete some of its jobs"
            )

    async def _stored_by(self, tenant: str, limit: int) -> int:
        """The bytes that a tenant has stored, counted anew before it is refused."""
        async with self._counting:  # of calls at the same time, one counts
            if self._stored is None or (self._stored[tenant] >= limit and self._is_old()):
                self._stored = Counter(await self._count_stored())
                self._counted_at = self._clock.monotonic()
            return self._stored[tenant]

    def count_event(self, event: ClipEvent) -> None:
        """Count the bytes of a clip that was rendered."""
        if isinstance(event, Finished) and self._stored is not None:
            self._stored[event.clip.urgency.tenant] += event.result.bytes

    def _charge(self, tenant: str, seconds: float) -> None:
        self._begin_day()
        self._used[tenant] += seconds

    def _begin_day(self) -> None:
        if self._today() != self._day:
            self._day = self._today()
            self._used.clear()

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.now(), UTC).date()

    def _is_old(self) -> bool:
        return self._clock.monotonic() - self._counted_at >= COUNT_S
