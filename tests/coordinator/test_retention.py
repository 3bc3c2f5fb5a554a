"""What is deleted from the store of a living farm: what a job needs stays, and nothing else."""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.coordinator.coordinator import Coordinator
from farm.errors import JobError, QueueFullError
from farm.model.job import JobRecord, State, Submission
from farm.model.request import digest_of
from farm.model.usage import rows
from farm.store.keys import (
    AUDIT,
    INDEXED,
    OLDER_PICTURES,
    USAGE,
    answer_key,
    answered_key,
    artifact_keys,
    checkpoint_key,
    events_key,
    idempotency_key,
    job_key,
    picture_key,
    preview_key,
    result_key,
    tenant_key,
    use_key,
)
from farm.store.local import LocalStore
from svd_engine.params import RenderParams
from tests.support.farm_jobs import picture_bytes
from tests.support.inline_farm import coordinator, inline

__all__ = ["inline"]

pytestmark = pytest.mark.usefixtures("inline")

PICTURES = [picture_bytes(seed) for seed in (0, 1)]
FARMS_OWN = {
    "store.json",
    "lease.json",
    "coordinator.json",
    "tenants.json",
    INDEXED,
    OLDER_PICTURES,
}


def asked(tenant: str = "one", seed: int = 0, **options: Any) -> Submission:
    return Submission(
        tenant=tenant, params=RenderParams(seed=seed, num_inference_steps=2), **options
    )


async def finish(farm: Coordinator, job: str) -> JobRecord:
    while True:
        record = (await farm.show(job)).job
        if not record.state.is_open:
            return record
        await asyncio.sleep(0.005)


async def render(farm: Coordinator, *args: Any, picture: int = 0, **options: Any) -> JobRecord:
    view = await farm.submit(asked(*args, **options), PICTURES[picture])
    return await finish(farm, view.job.id)


def age(folder: Path, by_s: float = 30 * 3600.0) -> None:
    """Make all objects look as if they had been written long ago."""
    then = time.time() - by_s
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in FARMS_OWN:
            os.utime(path, (then, then))


def objects(folder: Path) -> set[str]:
    """The keys of all objects but the farm's own, the audit log, and what is noted of the gone."""
    found = set(LocalStore(folder).list("")) - FARMS_OWN
    return {key for key in found if not key.startswith((USAGE, AUDIT))}


def taken_up(folder: Path) -> int:
    there = objects(folder)
    return sum(entry.size for entry in LocalStore(folder).entries("") if entry.key in there)


def needed_by(job: JobRecord, folder: Path) -> set[str]:
    """The objects that a finished job needs."""
    clips = {result.clip for result in job.results if result.clip}
    logs = set(LocalStore(folder).list(f"events/{job.id}/"))
    return {
        job_key(job.id),
        use_key(job.request.picture, job.id),
        picture_key(job.request.picture),
        tenant_key(job.tenant, job.id),
        *(key for result in job.results for key in result.artifact_keys()),
        *(result_key(clip) for clip in clips),
        *(answer_key(clip, job.tenant, job.id) for clip in clips),
        *logs,
    }


def test_a_deleted_job_takes_what_no_other_job_has(tmp_path: Path) -> None:
    async def run() -> None:
        async with coordinator(tmp_path) as farm:
            first = await render(farm, "one", 7, num_videos=2)
            second = await render(farm, "two", 8)  # shares a clip, and the picture
            await farm.delete(first.id)
            assert objects(tmp_path) == needed_by(second, tmp_path)
            assert await farm.find(first.id) is None
            await farm.delete(second.id)
            assert objects(tmp_path) == set()
            again = await render(farm, "one", 8)  # not answered with what is gone
            assert [result.paid_for for result in again.results] == [True]
            assert objects(tmp_path) == needed_by(again, tmp_path)

    asyncio.run(run())


def test_a_clip_that_an_open_job_has_is_not_deleted(tmp_path: Path) -> None:
    async def run() -> None:
        async with coordinator(tmp_path) as farm:
            first = await render(farm, "one", 0)
        async with coordinator(tmp_path, working=False, keep_days=1e-9) as farm:
            waits = (await farm.submit(asked("two", 0, num_videos=2), PICTURES[0])).job
            await farm.delete(first.id)
            age(tmp_path)
            await farm.collect_garbage()
            assert first.results[0].artifact_keys() <= objects(tmp_path)
        async with coordinator(tmp_path) as farm:
            assert [clip.paid_for for clip in (await finish(farm, waits.id)).results] == [
                False,
                True,
            ]
            assert await farm.garbage() == []

    asyncio.run(run())


def test_the_older_clips_of_a_store_are_deleted_by_a_look_at_all_of_it(tmp_path: Path) -> None:
    """The index does not say which of the jobs of an earlier version have a clip."""

    async def run() -> None:
        async with coordinator(tmp_path) as farm:
            for number in range(2):
                await render(farm, "one", number)
            jobs = await farm.jobs()
        store = LocalStore(tmp_path)
        for key in [key for key in store.list("answers") if key != "store.json"]:
            store.delete(key)
        for job in jobs:
            store.put(answered_key("one", job.request.digest), b"")
        async with coordinator(tmp_path) as farm:
            again = await render(farm, "two", 0, force=True)
            await farm.delete(jobs[0].id)
            await farm.delete(again.id)
            gone = jobs[0].results[0]
            assert store.exists(gone.video)
            age(tmp_path)
            await farm.collect_garbage()
            assert objects(tmp_path) - {answered_key("one", jobs[1].request.digest)} == (
                needed_by(jobs[1], tmp_path)
                - {answer_key(jobs[1].results[0].clip or "", "one", jobs[1].id)}
            )

    asyncio.run(run())


def litter(folder: Path) -> set[str]:
    """Write what killed processes and lost messages leave behind; returns the keys."""
    store, clip, picture = LocalStore(folder), "e" * 64, b"never submitted"
    keys = {
        picture_key(digest_of(picture)): picture,
        checkpoint_key(clip, 5): b"latents",
        preview_key(clip): b"preview",
        artifact_keys(clip, "1-1")[0]: b"video",
        idempotency_key("one", "key"): b'{"job": "gone", "at": 1.0}',
        events_key("gone", 3): b"{}",
        use_key("f" * 64, "gone"): b"",
        tenant_key("one", "gone"): b"",
        answer_key(clip, "one", "gone"): b"",
        answered_key("one", clip): b"",
    }
    for key, data in keys.items():
        store.put(key, data)
    return set(keys)


def test_what_killed_processes_left_is_deleted_once_it_is_old(tmp_path: Path) -> None:
    async def run() -> None:
        async with coordinator(tmp_path) as farm:
            job = await render(farm)
            left = litter(tmp_path)
            stray = artifact_keys(job.results[0].clip or "", "0-9")[0]
            LocalStore(tmp_path).put(stray, b"of a lost attempt")
            (tmp_path / "clips" / ".DS_Store").write_bytes(b"somebody else's")
            assert await farm.garbage() == []
            age(tmp_path)
            planned, before = await farm.garbage(), taken_up(tmp_path)
            assert objects(tmp_path) >= left  # nothing was deleted yet
            assert await farm.collect_garbage() == planned
            assert before - taken_up(tmp_path) == sum(row.bytes for row in planned)
            assert objects(tmp_path) - needed_by(job, tmp_path) == {"clips/.DS_Store"}

    asyncio.run(run())


CALLS = st.sampled_from(["submit", "submit", "submit", "pause", "cancel", "delete", "collect"])
CALL = st.tuples(CALLS, st.sampled_from(["one", "two"]), st.integers(0, 3), st.integers(0, 1))
HISTORIES = st.lists(st.lists(CALL, min_size=1, max_size=5), min_size=1, max_size=4)


@settings(max_examples=12, deadline=None)
@given(HISTORIES, st.none() | st.integers(0, 30_000))
def test_after_any_history_just_what_jobs_need_is_there(
    histories: list[list[tuple[str, str, int, int]]], keep_bytes: int | None
) -> None:
    """Each history is a farm's life: calls at once, and then its end; the next goes on from it."""
    with TemporaryDirectory() as folder:
        asyncio.run(_live(Path(folder), histories, keep_bytes))


async def _live(
    folder: Path, histories: list[list[tuple[str, str, int, int]]], keep_bytes: int | None
) -> None:
    for history in histories:
        async with coordinator(folder, keep_bytes=keep_bytes) as farm:
            await asyncio.gather(*(_call(farm, *call) for call in history))
            await _expect_whole(farm, folder)
    async with coordinator(folder) as farm:
        for view in await farm.jobs():
            with suppress(JobError):
                await farm.resume(view.id)
        jobs = [await finish(farm, job.id) for job in await farm.jobs()]
        age(folder)
        await farm.collect_garbage()
        needed = set[str]().union(*(needed_by(job, folder) for job in jobs))
        assert {key for key in objects(folder) if not key.startswith("idempotency/")} == needed
    async with coordinator(folder, keep_bytes=0) as farm:
        used = await _usage(farm)
        planned, before = await farm.garbage(), taken_up(folder)
        assert await farm.collect_garbage() == planned
        assert before - taken_up(folder) == sum(row.bytes for row in planned)
        assert objects(folder) == set()
        assert await _usage(farm) == used  # although all jobs are deleted


async def _usage(farm: Coordinator) -> list[dict[str, Any]]:
    """GPU seconds are sums in another order each time."""
    table = rows(await farm.usage())
    return [row | {"gpu_seconds": pytest.approx(row["gpu_seconds"], abs=0.01)} for row in table]


async def _call(farm: Coordinator, call: str, tenant: str, number: int, picture: int) -> None:
    await asyncio.sleep(number * 0.002)
    jobs = await farm.jobs()
    job = jobs[number % len(jobs)].id if jobs else ""
    with suppress(JobError, QueueFullError):
        if call == "submit" or not job:
            options = {"num_videos": 1 + number % 2, "force": number == 3}
            await farm.submit(asked(tenant, number // 2, **options), PICTURES[picture])
        elif call == "collect":
            await farm.collect_garbage()
        else:
            await getattr(farm, call)(job)


async def _expect_whole(farm: Coordinator, folder: Path) -> None:
    """All that is promised to the jobs that are there is there."""
    store = LocalStore(folder)
    for job in await farm.jobs():
        if job.state is State.COMPLETED:
            assert needed_by(job, folder) <= objects(folder)
        assert store.exists(picture_key(job.request.picture))
        for result in job.results:
            assert all(store.exists(key) for key in result.artifact_keys())
