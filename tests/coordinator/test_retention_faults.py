"""Collection and deletion beside damage, calls at a bad moment, and clocks that jump."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from farm.errors import JobError, QuotaError, StoreError
from farm.model.job import State
from farm.model.retention import Kind
from farm.store.keys import job_key
from farm.store.known import KnownStore
from tests.coordinator.test_retention import PICTURES, age, asked, finish, objects, render
from tests.support.inline_farm import coordinator, hang_after, inline, parts

__all__ = ["inline"]

pytestmark = pytest.mark.usefixtures("inline")


def spoil(folder: Path, job: str, **changes: Any) -> None:
    """Damage a job's record."""
    path = folder / job_key(job)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_open_jobs_damaged_record_is_written_anew(tmp_path: Path) -> None:
    """The farm has the job in memory; a repair of the store's copy would look like another farm."""

    async def run() -> None:
        async with coordinator(tmp_path, working=False) as farm:
            job = (await farm.submit(asked("one"), PICTURES[0])).job
            spoil(tmp_path, job.id, state="nonsense")
            await farm.collect_garbage()
            await farm.usage()
            assert json.loads((tmp_path / job_key(job.id)).read_text())["state"] == "nonsense"

    asyncio.run(run())


def test_a_salvaged_job_can_be_collected_and_deleted(tmp_path: Path) -> None:
    async def run() -> None:
        async with coordinator(tmp_path, working=False) as farm:
            jobs = [(await farm.submit(asked("one", n), PICTURES[0])).job for n in range(2)]
        for job in jobs:
            spoil(tmp_path, job.id, attempts="many")
        async with coordinator(tmp_path, working=False, keep_days=1e-9) as farm:
            first = (await farm.show(jobs[0].id)).job
            assert first.state is State.FAILED
            assert first.finished_at is not None
            await farm.delete(first.id)
            age(tmp_path)
            assert {row.kind for row in await farm.collect_garbage()} >= {Kind.JOB}
            assert await farm.jobs() == []

    asyncio.run(run())


def test_what_cannot_be_deleted_keeps_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with coordinator(tmp_path) as farm:
            bad, good = await render(farm, "one"), await render(farm, "two", 1, picture=1)
        spoil(tmp_path, bad.id, claim="../no-key")
        async with coordinator(tmp_path, keep_days=1e-9) as farm:
            age(tmp_path)
            await farm.collect_garbage()
            assert await farm.find(good.id) is None
            assert await farm.find(bad.id) is not None
            assert not good.results[0].artifact_keys() & objects(tmp_path)
        assert f"job {bad.id} cannot be deleted" in caplog.text

    asyncio.run(run())


def test_a_store_that_is_down_ends_a_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []

    def refuse(_: KnownStore, key: str) -> None:
        attempts.append(key)
        raise StoreError("it is down")

    async def run() -> None:
        async with coordinator(tmp_path) as farm:
            for seed in range(60):
                await render(farm, "one", seed)
        async with coordinator(tmp_path, keep_days=1e-9) as farm:
            age(tmp_path)
            with monkeypatch.context() as patch:
                patch.setattr(KnownStore, "delete", refuse)
                with pytest.raises(StoreError, match="it is down"):
                    await farm.collect_garbage()
            assert 0 < len(attempts) < 60
            await farm.collect_garbage()
            assert await farm.jobs() == []

    asyncio.run(run())


def test_a_job_whose_end_is_being_written_is_deleted_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, ending = KnownStore.put, list[str]()

    def slow(store: KnownStore, key: str, data: bytes, **conditions: Any) -> str:
        if key.startswith("jobs/") and b'"state":"completed"' in data:
            ending.append(key)
            time.sleep(0.3)
        return put(store, key, data, **conditions)

    async def run() -> None:
        monkeypatch.setattr(KnownStore, "put", slow)
        async with coordinator(tmp_path) as farm:
            job = (await farm.submit(asked("one", idempotency_key="k"), PICTURES[0])).job
            while not ending:
                await asyncio.sleep(0.005)
            await farm.delete(job.id)
            assert await farm.find(job.id) is None
            assert objects(tmp_path) == set()

    asyncio.run(run())


def test_an_open_job_is_not_deleted_from_below(tmp_path: Path) -> None:
    async def run() -> None:
        async with coordinator(tmp_path, working=False) as farm:
            job = (await farm.submit(asked("one"), PICTURES[0])).job
            with pytest.raises(JobError, match="it cannot be deleted"):
                await (await parts(farm)).retention.delete(job)
            assert job_key(job.id) in objects(tmp_path)

    asyncio.run(run())


def test_clocks_that_jumped_expire_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    year = 365 * 24 * 3600.0

    async def run() -> None:
        async with coordinator(tmp_path, keep_days=1.0) as farm:
            late = await render(farm, "one")
            spoil(tmp_path, late.id, finished_at=0.0)  # it ended while the clock was in 1970
            clock = (await parts(farm)).retention._clock
            now = time.time() + year
            monkeypatch.setattr(clock, "now", lambda: now)
            monkeypatch.setattr(clock, "wall", lambda: now)
            assert await farm.garbage() == []

    asyncio.run(run())


def test_a_worker_that_gets_its_slot_back_gets_tasks_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with coordinator(tmp_path) as farm:
            mine = await parts(farm)
            maintenance, workers = mine.maintenance, mine.rendering.workers
            scheduler: Any = mine.rendering.scheduler
            await hang_after(farm, 0)
            await farm.submit(asked("one"), PICTURES[0])
            while not any(each.task for each in scheduler.workers.values()):
                await asyncio.sleep(0.005)
            while not (renderer := scheduler.workers["renderer-0"]).task:
                await asyncio.sleep(0.005)
            nodes, workers._nodes = workers._nodes, []  # type: ignore[attr-defined]
            await maintenance.place_workers()
            assert renderer.draining
            workers._nodes = nodes  # type: ignore[attr-defined]
            await maintenance.place_workers()
            assert not renderer.draining
            await farm.drain("renderer-0")  # an operator's word stays
            await maintenance.place_workers()
            assert renderer.draining

    asyncio.run(run())


def test_a_number_without_end_harms_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        async with coordinator(tmp_path, working=False) as farm:
            job = (await farm.submit(asked("one"), PICTURES[0])).job
            with pytest.raises(Exception, match=r"priority|limit"):
                await farm.set_priority(job.id, 10**5000)
            await asyncio.sleep(0.8)  # until the audit log is written

    asyncio.run(run())


def test_quotas_count_what_comes_in(tmp_path: Path) -> None:
    async def run() -> int:
        async with coordinator(tmp_path, working=False, max_stored_bytes={"*": 100_000}) as farm:
            while (await parts(farm)).quotas._stale_at is None:
                await asyncio.sleep(0.01)
            for accepted in range(40):
                try:
                    await farm.submit(asked("one", accepted), PICTURES[accepted % 2])
                except QuotaError:
                    return accepted
            return 40

    assert 0 < asyncio.run(run()) < 12


def test_finished_jobs_are_kept_from_a_read(tmp_path: Path) -> None:
    """At a start with quotas only the records of the last days are read."""
    got: list[str] = []

    async def run() -> None:
        async with coordinator(tmp_path) as farm:
            jobs = [await render(farm, "one", seed) for seed in range(3)]
        age(tmp_path, 5 * 24 * 3600.0)
        get = KnownStore.get

        def counted(store: KnownStore, key: str) -> Any:
            got.extend([key] if key.startswith("jobs/") else [])
            return get(store, key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(KnownStore, "get", counted)
            async with coordinator(tmp_path, working=False, max_gpu_seconds={"*": 1e6}) as farm:
                assert await finish(farm, jobs[0].id)

    asyncio.run(run())
    assert len(got) == 1
