"""Read-only access to the jobs in a store, without a running farm.

It never writes to the store, so it is safe to use on the store of a running farm.
"""

import logging
import time
from datetime import date

from farm.errors import JobError, StoreError, UnreadableError
from farm.model.farm_api import ReadOnlyFarm
from farm.model.job import LOG_PAGE, JobRecord, JobView, LogEntry, Progress
from farm.model.retention import Freed, Policy, freed, plan
from farm.model.usage import FIRST_DAY, ByDay
from farm.records.inventory import take_inventory
from farm.records.salvage import entries_of, log_keys
from farm.records.usage_log import read_usage
from farm.store import IDENTITY, Store, is_key, open_store
from farm.store.keys import JOBS, OPEN, job_key, job_of, open_job_of
from farm.store.records import parse_record
from svd_engine.nearest import did_you_mean

log = logging.getLogger("farm")

PATIENCE_S = 10.0  # how long to retry while an S3 server does not answer
NAMED = 1000  # the number of latest ids in which to look for one like an unknown id


class StoredJobs(ReadOnlyFarm):
    """Reads jobs from a store."""

    def __init__(self, url: str, policy: Policy | None = None) -> None:
        """Raises StoreError if the store is not a farm's. policy: which jobs count as garbage."""
        self._policy = policy or Policy()
        self._store = open_store(url, make=False, patience_s=PATIENCE_S)
        if not self._store.exists(IDENTITY) and next(iter(self._store.list(JOBS)), None) is None:
            raise StoreError(
                f"no farm keeps its jobs at {self._store.where()}: give the --store that the farm "
                "was started with, for example `demo/store` after `make demo`"
            )

    @property
    def store(self) -> Store:
        """The store that is read."""
        return self._store

    async def jobs(
        self, after: str = "", limit: int = 100, open_only: bool = False
    ) -> list[JobRecord]:
        """Like ReadOnlyFarm's; an unreadable record is left out with a warning."""
        found: list[JobRecord] = []
        for name in self._ids(open_only):
            if len(found) >= limit:
                break
            job = self._read(name) if name > after else None
            if job is not None and (job.state.is_open or not open_only):
                found.append(job)
        return found

    async def show(self, job: str) -> JobView:
        """Like ReadOnlyFarm's. Raises UnreadableError if the job's record cannot be read."""
        return self.look_up(job)

    def look_up(self, name: str) -> JobView:
        """Like `show`."""
        stored = self._store.get(job_key(name)) if is_key(job_key(name)) else None
        if stored is None:
            message = f"There is no job {name!r} in {self._store.where()}"
            raise JobError(message, suggestion=self._near(name))
        try:
            job = parse_record(JobRecord, job_key(name), stored.data)
        except UnreadableError as error:
            raise UnreadableError(f"{self._store.where(job_key(name))}: {error}") from error
        return JobView(job=job, progress=Progress.of(job))

    async def events(self, job: str, after: int = 0) -> list[LogEntry]:
        """Like ReadOnlyFarm's; unreadable entries are left out with a warning."""
        while True:
            found = self._entries(job, after)
            if found is not None:
                return found

    async def usage(self, since: date = FIRST_DAY) -> ByDay:
        """Like ReadOnlyFarm's; what only an unreadable record says is left out."""
        return read_usage(self._store, self._read, since)

    async def garbage(self) -> list[Freed]:
        """Like ReadOnlyFarm's; what only an unreadable record names counts as garbage."""
        return freed(plan(take_inventory(self._store, self._read, {}), self._policy, time.time()))

    def _entries(self, job: str, after: int) -> list[LogEntry] | None:
        """A page of a job's log; None if a farm compacted the log meanwhile."""
        found: dict[int, LogEntry] = {}
        for key in log_keys(self._store, job, after):
            stored = self._store.get(key)
            if stored is None:
                return None
            entries, faults = entries_of(job, stored.data)
            if faults:
                log.warning("%s is partly unreadable: %s", self._store.where(key), faults[0])
            found |= {entry.seq: entry for entry in entries if entry.seq > after}
            if len(found) >= LOG_PAGE:
                break
        return [found[seq] for seq in sorted(found)]

    def _ids(self, open_only: bool) -> list[str]:
        prefix, name_of = (OPEN, open_job_of) if open_only else (JOBS, job_of)
        return sorted(filter(None, map(name_of, self._store.list(prefix))))

    def _read(self, name: str) -> JobRecord | None:
        """Read a job; None if it is gone, or unreadable, of which a warning is logged."""
        try:
            return self.look_up(name).job
        except JobError:
            return None
        except UnreadableError as error:
            log.warning("cannot read %s", error)
            return None

    def _near(self, name: str) -> str:
        return did_you_mean(name, self._ids(open_only=False)[-NAMED:])
