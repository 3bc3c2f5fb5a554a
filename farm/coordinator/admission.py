"""Limits on the open jobs and work of each tenant."""

from collections.abc import Iterator
from contextlib import contextmanager

from farm.errors import QueueFullError, SizeError
from farm.model.job import JobRecord
from farm.model.request import RenderRequest
from farm.records.job_book import JobBook
from farm.records.open_jobs import Tally, factors_of, work_of
from farm.settings import Settings

UNKNOWN_S = 30.0  # the wait to report if too few jobs have finished to estimate it
SAMPLE = 100  # the latest finished jobs, from which a wait is estimated


class Admission:
    """Decides whether another job is accepted.

    A tenant with fewer jobs than its equal share, which is FARM_MAX_JOBS over the number of tenants
    that have open jobs, is never refused because of other tenants, even if they have filled the
    farm. Beyond its share it is refused once the farm is full. Paused jobs count only against their
    own tenant. So n tenants that all flood the farm have at most about FARM_MAX_JOBS x (1 + ln n)
    jobs that are not paused, and none is shut out.
    """

    def __init__(self, settings: Settings, book: JobBook) -> None:
        self._settings, self._book, self._open = settings, book, book.open
        self._coming: dict[str, Tally] = {}  # jobs that are being written

    @contextmanager
    def room_for(self, job: JobRecord) -> Iterator[None]:
        """Reserve room for a job while it is written; one that is open already needs none.

        Raises SizeError for more work than a tenant may ever have open, and QueueFullError, which
        says whose limit is reached, if there is no room now.
        """
        if job.id in self._open:
            yield
            return
        self.check_work(job.request)
        self._check_room(job)
        coming = self._coming.setdefault(job.tenant, Tally())
        coming.count(job)
        try:
            yield
        finally:
            coming.count(job, -1)
            if not coming.jobs:
                del self._coming[job.tenant]

    def check_work(self, request: RenderRequest) -> None:
        """Raise SizeError for more work than a tenant may ever have open."""
        asked, most = work_of(request), self._settings.max_work
        if asked > most:
            names, numbers = zip(*factors_of(request), strict=True)
            raise SizeError(
                f"{' x '.join(names)}: {' x '.join(map(str, numbers))} = {asked:,} is more work "
                f"than a tenant may have open, which is {most:,} (FARM_MAX_WORK)"
            )

    def _check_room(self, job: JobRecord) -> None:
        settings, mine = self._settings, self._tally(job.tenant)
        limit = settings.max_jobs_per_tenant or settings.max_jobs
        asked, most = work_of(job.request), settings.max_work
        if mine.jobs >= limit:
            raise QueueFullError(
                f"tenant {job.tenant!r} has {mine.jobs} open jobs{_paused(mine)}, and may have no "
                f"more than {limit}: others are not affected",
                self._wait_s(job.tenant, mine),
            )
        if mine.work + asked > most:
            raise QueueFullError(
                f"tenant {job.tenant!r} has {mine.work:,} steps x pixels open{_paused(mine)}; "
                f"{asked:,} more would exceed its limit of {most:,} (FARM_MAX_WORK)",
                self._wait_s(job.tenant, mine),
            )
        tenants = {*self._open.tallies, *self._coming, job.tenant}
        tallies = [self._tally(tenant) for tenant in tenants]
        at_work = sum(tally.jobs - tally.paused for tally in tallies)
        share = max(1, settings.max_jobs // len(tenants))
        if at_work >= settings.max_jobs and mine.jobs >= share:
            raise QueueFullError(
                f"the farm has {at_work} open jobs, and takes no more than "
                f"{settings.max_jobs}; tenant {job.tenant!r} has {mine.jobs} of them"
                f"{_paused(mine)}, and its share is {share}",
                self._wait_s(None, mine),
            )

    def _tally(self, tenant: str) -> Tally:
        here, coming = self._open.tallies.get(tenant), self._coming.get(tenant)
        if here is None or coming is None:
            return here or coming or Tally()
        return Tally(here.jobs + coming.jobs, here.paused, here.work + coming.work)

    def _wait_s(self, tenant: str | None, mine: Tally) -> float:
        """Seconds until there is likely room, from the rate at which the last jobs finished."""
        times = self._book.finish_times(SAMPLE, tenant)
        if len(times) < 2 or (tenant is not None and mine.paused == mine.jobs):
            return UNKNOWN_S
        return round(max(1.0, (times[-1] - times[0]) / (len(times) - 1)), 1)


def _paused(tally: Tally) -> str:
    return f", of which {tally.paused} are paused" if tally.paused else ""
