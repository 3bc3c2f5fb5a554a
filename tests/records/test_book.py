"""The book of jobs with a store that answers late or not at all."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from farm.background import Background
from farm.errors import StoreError
from farm.model.job import JobRecord
from farm.records.job_book import JobBook
from farm.store.keys import JOBS, events_prefix
from farm.store.local import LocalStore
from tests.model.test_job import job


class Troubled(LocalStore):
    """A folder: what is written under `prefix` is there, but the first answer is an error."""

    prefix = ""

    def put(self, key: str, *arguments: Any, **conditions: Any) -> str:
        etag = super().put(key, *arguments, **conditions)
        if self.prefix and key.startswith(self.prefix):
            self.prefix = ""
            raise StoreError(f"{key}: no answer")
        return etag


def with_book(folder: Path, work: Callable[[JobBook, Troubled], Awaitable[None]]) -> None:
    async def ended(_: JobRecord) -> None: ...

    async def run() -> None:
        store = Troubled(str(folder))
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        await work(JobBook(store, Background(4), 1, nothing, ended, nothing), store)

    asyncio.run(run())


def test_a_job_whose_answer_was_lost_is_taken_on_when_it_is_sent_again(tmp_path: Path) -> None:
    async def work(book: JobBook, store: Troubled) -> None:
        store.prefix = JOBS
        with pytest.raises(StoreError):
            await book.create(job())
        assert not book.open
        again = await asyncio.gather(book.create(job()), book.create(job()))
        assert sorted(new for _, new in again) == [False, True]
        assert list(book.open) == [job().id]
        assert await book.ids("", 10) == [job().id]

    with_book(tmp_path, work)


def test_a_log_is_written_in_order(tmp_path: Path) -> None:
    async def work(book: JobBook, store: Troubled) -> None:
        await book.create(job())
        name, late = job().id, store.put

        def slow(key: str, *arguments: Any, **conditions: Any) -> str:
            if key.startswith(events_prefix(name)):
                time.sleep(0.2)  # the first write, not the second
                store.put = late  # type: ignore[method-assign]
            return late(key, *arguments, **conditions)

        store.put = slow  # type: ignore[method-assign]
        first = asyncio.create_task(book.logs.flush(name))
        await asyncio.sleep(0.05)
        book.log_event(name, "later")
        await book.logs.flush(name)
        assert first.done()
        assert [entry.seq for entry in await book.logs.entries(name, 0)] == [1, 2]

    with_book(tmp_path, work)
