"""A picture stays in the store as long as a job uses it, however calls interleave."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.background import Background
from farm.errors import PictureMissingError
from farm.model.request import digest_of
from farm.records.pictures import Pictures, list_older, write_picture
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
        """As a client does that hands the picture over."""
        await self._name(job, picture, picture)

    async def submit_stored(self, job: str, picture: bytes) -> None:
        """As a front door does, which writes the picture itself."""
        while True:
            try:
                return await self._name(job, picture, None)
            except PictureMissingError:
                arguments = self.store, digest_of(picture), picture
                await self.background.call(write_picture, *arguments)

    async def _name(self, job: str, picture: bytes, handed: bytes | None) -> None:
        async with self.pictures.kept(digest_of(picture), handed):
            for key in (use_key(digest_of(picture), job), job_key(job)):
                await self.background.call(self.store.put, key, b"")
        self.named[job] = picture

    async def delete(self, job: str) -> None:
        await self.background.call(self.store.delete, job_key(job))
        await self.pictures.release(digest_of(self.named[job]), job)
        del self.named[job]

    def check(self, older: frozenset[bytes] = frozenset()) -> None:
        kept = {p for p in PICTURES if self.store.exists(picture_key(digest_of(p)))}
        assert kept == older.union(self.named.values())
        uses = {key for key in self.store.list("uses/") if key.endswith(".job")}
        assert uses == {use_key(digest_of(p), job) for job, p in self.named.items()}


CALLS = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(PICTURES), st.booleans()), max_size=6),
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(CALLS)
def test_a_picture_is_there_as_long_as_a_job_names_it(
    calls: list[list[tuple[int, bytes, bool]]],
) -> None:
    """calls: groups that are made at once; each submits a job, or deletes the one there is.

    A job's picture is handed over, or written by the caller. Pictures that no job names are
    collected at the same time.
    """

    async def run(jobs: Jobs) -> None:
        for group in calls:
            wanted = {f"job-{number}": (picture, stored) for number, picture, stored in group}
            changes = [
                jobs.delete(job)
                if job in jobs.named
                else (jobs.submit_stored if stored else jobs.submit)(job, picture)
                for job, (picture, stored) in wanted.items()
            ]
            collected = [
                jobs.pictures.delete_unless_named(digest_of(picture)) for picture in PICTURES
            ]
            await asyncio.gather(*collected, *changes)
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
        results = await asyncio.gather(refused(), jobs.delete("a"), return_exceptions=True)
        assert isinstance(results[0], InterruptedError)

    asyncio.run(run())
    jobs.check()


def test_an_older_picture_is_deleted_once_it_is_known_that_no_job_names_it(tmp_path: Path) -> None:
    digests = [digest_of(picture) for picture in PICTURES]
    for digest, picture in zip(digests, PICTURES, strict=True):
        LocalStore(tmp_path).put(picture_key(digest), picture)
    jobs = Jobs(tmp_path)

    async def run() -> None:
        await jobs.submit("a", PICTURES[0])
        assert not await jobs.pictures.delete_unless_named(digests[1])
        await jobs.pictures.forget_older(digests)
        assert await jobs.pictures.delete_unless_named(digests[1])
        assert not await jobs.pictures.delete_unless_named(digests[0])  # the job names it
        await jobs.delete("a")

    asyncio.run(run())
    jobs.check()
    assert list_older(jobs.store) == set()


def test_a_picture_that_is_doubted_is_compared_by_whoever_sends_it(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    digest = digest_of(PICTURES[0])

    async def run() -> None:
        await jobs.submit_stored("a", PICTURES[0])
        jobs.store.put(picture_key(digest), b"damaged")
        await jobs.submit_stored("b", PICTURES[0])  # nobody knows yet
        jobs.pictures.doubt(digest)
        await jobs.submit_stored("c", PICTURES[0])

    asyncio.run(run())
    stored = jobs.store.get(picture_key(digest))
    assert stored is not None
    assert stored.data == PICTURES[0]
