"""A picture stays in the store as long as a job uses it, however calls interleave."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.background import Background
from farm.model.request import digest_of
from farm.records.pictures import Pictures, list_older
from farm.store.keys import job_key, picture_key, use_key
from farm.store.local import LocalStore

PICTURES = [b"one", b"two"]


class Jobs:
    """What the coordinator does with pictures, around records that only have to be there."""

    def __init__(self, folder: Path) -> None:
        self.store, self.background = LocalStore(folder), Background(4)
        self.pictures = Pictures(self.store, self.background, list_older(self.store))
        self.named: dict[str, bytes] = {}

    async def submit(self, job: str, picture: bytes) -> None:
        async with self.pictures.kept(digest_of(picture), picture):
            for key in (use_key(digest_of(picture), job), job_key(job)):
                await self.background.call(self.store.put, key, b"")
        self.named[job] = picture

    async def delete(self, job: str) -> None:
        await self.pictures.release(digest_of(self.named[job]), job)
        await self.background.call(self.store.delete, job_key(job))
        del self.named[job]

    def check(self, older: frozenset[bytes] = frozenset()) -> None:
        kept = {p for p in PICTURES if self.store.exists(picture_key(digest_of(p)))}
        assert kept == older.union(self.named.values())
        uses = {key for key in self.store.list("uses/") if key.endswith(".job")}
        assert uses == {use_key(digest_of(p), job) for job, p in self.named.items()}


CALLS = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(PICTURES)), max_size=6), max_size=6
)


@settings(max_examples=25, deadline=None)
@given(CALLS)
def test_a_picture_is_there_as_long_as_a_job_names_it(
    calls: list[list[tuple[int, bytes]]],
) -> None:
    """calls: groups that are made at once; each submits a job, or deletes the one there is."""

    async def run(jobs: Jobs) -> None:
        for group in calls:
            wanted = {f"job-{number}": picture for number, picture in group}
            await asyncio.gather(
                *(
                    jobs.delete(job) if job in jobs.named else jobs.submit(job, picture)
                    for job, picture in wanted.items()
                )
            )
            jobs.check()

    with TemporaryDirectory() as folder:
        asyncio.run(run(Jobs(Path(folder))))


def test_a_picture_of_farms_before_the_index_is_kept(tmp_path: Path) -> None:
    LocalStore(tmp_path).put(picture_key(digest_of(PICTURES[0])), PICTURES[0])
    jobs = Jobs(tmp_path)

    async def run() -> None:
        for job in ("a", "b"):
            await jobs.submit(job, PICTURES[0])
        for job in ("a", "b"):
            await jobs.delete(job)

    asyncio.run(run())
    jobs.check(older=frozenset({PICTURES[0]}))


def test_what_a_submission_left_that_never_became_a_job_keeps_no_picture(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)

    async def interrupted() -> None:
        async with jobs.pictures.kept(digest_of(PICTURES[0]), PICTURES[0]):
            jobs.store.put(use_key(digest_of(PICTURES[0]), "never"), b"")
            raise InterruptedError

    async def run() -> None:
        with pytest.raises(InterruptedError):
            await interrupted()
        await jobs.submit("a", PICTURES[0])
        await jobs.delete("a")

    asyncio.run(run())
    jobs.check()


def test_a_submission_that_fails_leaves_no_picture(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)

    async def refused() -> None:
        async with jobs.pictures.kept(digest_of(PICTURES[0]), PICTURES[0]):
            await asyncio.sleep(0.05)
            raise InterruptedError

    async def run() -> None:
        await jobs.submit("a", PICTURES[0])
        told = await asyncio.gather(refused(), jobs.delete("a"), return_exceptions=True)
        assert isinstance(told[0], InterruptedError)

    asyncio.run(run())
    jobs.check()
