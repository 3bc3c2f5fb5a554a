"""Listing a tenant's jobs never reads the jobs of others."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from farm.background import Background
from farm.model.job import JobRecord, State
from farm.records.job_book import JobBook
from farm.store import Stored
from farm.store.keys import JOBS, TENANTS_WHOLE, job_key, tenant_prefix
from farm.store.local import LocalStore
from tests.model.test_job import job


class Counting(LocalStore):
    """A folder that counts the records that are read."""

    reads = 0

    def get(self, key: str) -> Stored | None:
        self.reads += key.startswith(JOBS)
        return super().get(key)


def run(folder: Path, work: Callable[[JobBook, Counting], Awaitable[None]]) -> None:
    async def ended(_: JobRecord) -> None: ...

    async def begin() -> None:
        store = Counting(str(folder))
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        await work(JobBook(store, Background(8), 1, nothing, ended, nothing), store)

    asyncio.run(begin())


async def listed(book: JobBook, tenant: str, after: str = "", *, newest: bool = False) -> list[str]:
    ids = await book.ids_of(tenant, after, 100, newest)
    return [each.id for each in await book.read_of(tenant, ids)]


def test_a_tenant_without_jobs_reads_nobodys(tmp_path: Path) -> None:
    async def past(book: JobBook, _: Counting) -> None:
        await book.tenants.complete()
        for number in range(60):
            await book.create(job(id=f"job-{number:02}", tenant=f"tenant-{number % 3}"))

    async def now(book: JobBook, store: Counting) -> None:
        await book.tenants.complete()
        assert await listed(book, "nobody") == []
        assert store.reads == 0
        own = [f"job-{number:02}" for number in range(1, 60, 3)]
        assert await listed(book, "tenant-1") == own
        assert store.reads == len(own)
        assert await listed(book, "tenant-1", newest=True) == own[::-1]
        assert await listed(book, "tenant-1", "job-31") == own[11:]
        assert await listed(book, "tenant-1", "job-31", newest=True) == own[:10][::-1]

    run(tmp_path, past)
    run(tmp_path, now)


def test_jobs_that_come_and_go(tmp_path: Path) -> None:
    async def work(book: JobBook, store: Counting) -> None:
        await book.tenants.complete()
        names = [f"job-{number}" for number in range(5)]
        creates = [book.create(job(id=name, tenant="acme")) for name in names[:3]]
        await asyncio.gather(listed(book, "acme"), *creates)
        assert await listed(book, "acme") == names[:3]
        await book.create(job(id=names[3], tenant="acme"))
        await book.create(job(id=names[3], tenant="acme"))  # again
        assert await listed(book, "acme") == names[:4]
        await book.delete(names[1])
        assert await listed(book, "acme") == [names[0], *names[2:4]]
        assert len(list(store.list(tenant_prefix("acme")))) == 3

    run(tmp_path, work)


def test_a_store_of_an_older_farm_is_indexed_once(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for number in range(250):
        old = job(State.COMPLETED, id=f"job-{number:03}", tenant=f"tenant-{number % 2}")
        path = tmp_path / job_key(old.id)
        path.parent.mkdir(exist_ok=True)
        path.write_text(old.model_dump_json())
    (tmp_path / JOBS / "broken.json").write_text("{")
    (tmp_path / JOBS / ".DS_Store").write_text("")

    async def first(book: JobBook, _: Counting) -> None:
        before = await book.ids_of("tenant-1", "", 100, newest_first=False)
        assert len(before) == 100  # of anybody's, until it is done
        await book.tenants.complete()
        assert len(await book.ids_of("tenant-1", "", 1000, newest_first=False)) == 125

    async def second(book: JobBook, store: Counting) -> None:
        await book.tenants.complete()
        assert store.reads == 0
        assert len(await book.ids_of("tenant-0", "", 1000, newest_first=False)) == 125

    run(tmp_path, first)
    run(tmp_path, second)
    store.put(TENANTS_WHOLE, b'{"id": "another\'s content"}')
    run(tmp_path, first)
    run(tmp_path, second)
