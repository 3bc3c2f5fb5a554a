"""The jobs of a store, read without a farm: nothing is written, locked, taken or set aside.

The store may be that of a farm that runs; then what is read is what the farm has written so far.
"""

import logging
from typing import NoReturn

from farm.errors import JobError, StoreError, UnreadableError, WorkerError
from farm.model.job import LOG_PAGE, Job, JobView, LogEntry, Progress
from farm.records.salvage import entries_of, log_keys
from farm.store import IDENTITY, is_key, open_store
from farm.store.keys import JOBS, OPEN, job_key, job_of, open_job_of
from farm.store.records import parse_record
from svd_engine.nearest import did_you_mean

log = logging.getLogger("farm")

PATIENCE_S = 10.0  # with a server that is away
NAMED = 1000  # ids, the latest, that a wrong one is compared with


class StoredJobs:
    """Those methods of FarmApi that need only the store."""

    def __init__(self, url: str) -> None:
        """StoreError where no farm keeps its jobs there."""
        self._store = open_store(url, make=False, patience_s=PATIENCE_S)
        if not self._store.exists(IDENTITY) and next(iter(self._store.list(JOBS)), None) is None:
            raise StoreError(
                f"no farm keeps its jobs at {self._store.where()}: give the --store that it was "
                "started with, as `demo/store` after `make demo`"
            )

    def __getattr__(self, method: str) -> NoReturn:
        """Whatever else FarmApi has. WorkerError: only a farm can do that."""
        raise WorkerError(f"{self._store.where()} was opened to be read: no farm is asked")

    async def jobs(self, after: str = "", limit: int = 100, open_only: bool = False) -> list[Job]:
        """As FarmApi's; a record that cannot be read is left out, with a warning."""
        found: list[Job] = []
        for name in self._ids(open_only):
            if len(found) >= limit:
                break
            job = self._read(name) if name > after else None
            if job is not None and (job.state.is_open or not open_only):
                found.append(job)
        return found

    async def show(self, name: str) -> JobView:
        """As FarmApi's. UnreadableError: the job's record cannot be read."""
        return self._show(name)

    def _show(self, name: str) -> JobView:
        stored = self._store.get(job_key(name)) if is_key(job_key(name)) else None
        if stored is None:
            message = f"there is no job {name!r} in {self._store.where()}"
            raise JobError(message, suggestion=self._near(name))
        try:
            job = parse_record(Job, job_key(name), stored.data)
        except UnreadableError as error:
            raise UnreadableError(f"{self._store.where(job_key(name))}: {error}") from error
        return JobView(job=job, progress=Progress.of(job))

    async def events(self, job: str, after: int = 0) -> list[LogEntry]:
        """As FarmApi's."""
        while True:
            found = self._entries(job, after)
            if found is not None:
                return found

    def _entries(self, job: str, after: int) -> list[LogEntry] | None:
        """A page of a job's log; None where a farm has compacted the log meanwhile."""
        found: dict[int, LogEntry] = {}
        for key in log_keys(self._store, job, after):
            stored = self._store.get(key)
            if stored is None:
                return None
            entries, faults = entries_of(job, stored.data)
            if faults:
                log.warning("%s cannot be read whole: %s", self._store.where(key), faults[0])
            found |= {entry.seq: entry for entry in entries if entry.seq > after}
            if len(found) >= LOG_PAGE:
                break
        return [found[seq] for seq in sorted(found)]

    def _ids(self, open_only: bool) -> list[str]:
        prefix, name_of = (OPEN, open_job_of) if open_only else (JOBS, job_of)
        return sorted(filter(None, map(name_of, self._store.list(prefix))))

    def _read(self, name: str) -> Job | None:
        """None for a record that is gone, or cannot be read; the latter is told."""
        try:
            return self._show(name).job
        except JobError:
            return None
        except UnreadableError as error:
            log.warning("cannot read %s", error)
            return None

    def _near(self, name: str) -> str:
        return did_you_mean(name, self._ids(open_only=False)[-NAMED:])
