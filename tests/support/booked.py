"""A book of jobs over a folder, and what it told those around it."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from farm.background import Background
from farm.model.job import JobRecord, State
from farm.records.job_book import JobBook
from farm.store.keys import job_key
from farm.store.local import LocalStore
from tests.model.test_job import job as job_of
from tests.support.in_loop import in_loop


class Booked:
    """A book, the store below it, and the calls that it made."""

    def __init__(
        self, store: LocalStore, fence: int = 1, wall: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.changed: list[str] = []
        self.ended: list[JobRecord] = []
        self.superseded = 0
        self.failures: list[str] = []
        self.trouble: list[Exception] = []  # raised by the next calls of `ended`, one by one
        self.background = Background(4, self.failures.append)
        self.book = JobBook(
            store, self.background, fence, self.changed.append, self._end, self._supersede, wall
        )

    async def _end(self, job: JobRecord) -> None:
        assert self.stored(job.id) == job  # its end is stored by now
        self.ended.append(job)
        if self.trouble:
            raise self.trouble.pop()

    def _supersede(self) -> None:
        self.superseded += 1

    async def create(self, name: str, **changes: Any) -> JobRecord:
        made, new = await self.book.create(job_of(id=name, **changes))
        assert new
        return made

    def stored(self, name: str) -> JobRecord | None:
        found = self.store.get(job_key(name))
        return JobRecord.model_validate_json(found.data) if found else None

    def put(self, name: str, state: State = State.QUEUED, **changes: Any) -> JobRecord:
        """Write a record as another coordinator would, with no entry in any index."""
        made = job_of(state, id=name, **changes)
        self.store.put(job_key(name), made.model_dump_json().encode())
        return made


def with_book(
    store: Path | LocalStore,
    test: Callable[[Booked], Awaitable[object]],
    fence: int = 1,
    wall: Callable[[], float] = time.time,
) -> Booked:
    """Run a test with a book; see `in_loop`."""
    folder = LocalStore(str(store)) if isinstance(store, Path) else store
    return in_loop(lambda: Booked(folder, fence, wall), test)
