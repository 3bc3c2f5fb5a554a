"""An unreadable object in the store harms only its job, and is kept."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.coordinator.coordinator import Coordinator
from farm.model.job import JobRecord, State, Submission
from farm.model.request import digest_of
from farm.store import Store, open_store
from farm.store.keys import preview_key
from svd_engine import RenderParams
from tests.support.farm_jobs import picture_bytes
from tests.support.inline_farm import coordinator, hang_after, inline, parts

__all__ = ["inline"]
pytestmark = pytest.mark.usefixtures("inline")

PICTURES = [picture_bytes(seed) for seed in range(3)]
TENANTS = ("acme", "zebra")


def asked(job: str, seed: int, tenant: str = "acme", **own: Any) -> Submission:
    params = RenderParams(num_inference_steps=6, seed=seed)
    return Submission(id=job, tenant=tenant, params=params, idempotency_key=job, **own)


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def ended(farm: Coordinator, job: str) -> JobRecord:
    async with asyncio.timeout(30):
        while True:
            view = await farm.find(job)
            if view is None or not view.job.state.is_open:
                assert view is not None, f"{job} is gone"
                return view.job
            await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with jobs of two tenants: finished, begun, waiting and paused."""
    folder = tmp_path_factory.mktemp("working")
    asyncio.run(_fill(folder))
    return folder


async def _fill(folder: Path) -> None:
    async with coordinator(folder) as farm:
        hook = "https://receiver.invalid/hook"
        await farm.submit(asked("done-a", 1, webhook_url=hook), PICTURES[0])
        await farm.submit(asked("done-z", 2, tenant="zebra"), PICTURES[1])
        await ended(farm, "done-a")
        await ended(farm, "done-z")
        await until(lambda: not list(farm._store.list("open/")))
        await hang_after(farm, 2)
        await farm.submit(asked("begun-z", 3, tenant="zebra"), PICTURES[1])
        await until(lambda: list(farm._store.list("checkpoints/")))
        clips = (await parts(farm)).rendering.dispatcher.clips
        farm._store.put(preview_key(next(iter(clips))), b"a preview")
        await farm.submit(asked("waits-a", 4), PICTURES[0])
        await farm.submit(asked("waits-z", 5, tenant="zebra"), PICTURES[2])
        await farm.submit(asked("paused-a", 6), PICTURES[2])
        await farm.pause("paused-a")
        book = (await parts(farm)).book
        await asyncio.gather(*(book.logs.flush(job) for job in book.open))
    kinds = {key.partition("/")[0] for key in open_store(str(folder)).list("")}
    assert kinds >= {
        *("pictures", "jobs", "open", "idempotency", "events", "checkpoints", "clips"),
        *("previews", "webhooks", "coordinator.json"),
    }


OPEN = {"begun-z": "zebra", "waits-a": "acme", "waits-z": "zebra", "paused-a": "acme"}
DONE = {"done-a": "acme", "done-z": "zebra"}


def owners(store: Store, key: str) -> set[str]:
    """The jobs that may fail where an object is broken."""
    kind, _, rest = key.partition("/")
    if kind == "jobs":
        return {rest.removesuffix(".json")}
    if kind == "pictures":
        jobs = (json.loads((store.get(job) or ("{}",))[0]) for job in store.list("jobs/"))
        return {job["id"] for job in jobs if job["request"]["picture"] == rest}
    return set()


async def goes_on(folder: Path, may_fail: set[str]) -> None:
    """Everybody else's jobs end well, and everybody can look, ask and ask again."""
    async with coordinator(folder) as farm:
        if "paused-a" in (await parts(farm)).book.open:
            await farm.resume("paused-a")
        for name, tenant in (OPEN | DONE).items():
            if name in may_fail:
                view = await farm.find(name)
                if view is not None:
                    job = await ended(farm, name)
                    assert job.state is State.COMPLETED or job.error
                    assert job.tenant == tenant
                continue
            job = await ended(farm, name)
            assert (job.state, job.tenant) == (State.COMPLETED, tenant), job.error
            await farm.events(name)
        for tenant in TENANTS:
            listed = {view.job.id for view in await farm.views(tenant, "", 100, True)}
            all_of = {job for job, whose in (OPEN | DONE).items() if whose == tenant}
            assert listed - may_fail == all_of - may_fail
        assert (await farm.status())["quarantined"] <= 2
        for number, picture in enumerate(PICTURES):
            await farm.submit(asked(f"new-{number}", 90 + number), picture)
        for name in ("waits-a", "done-a"):
            if name not in may_fail:  # sent again, it is the job that it was
                again = await farm.submit(asked(name, 4 if name == "waits-a" else 1), PICTURES[0])
                assert again.job.id == name
        for number in range(len(PICTURES)):
            job = await ended(farm, f"new-{number}")
            assert job.state is State.COMPLETED, job.error


@st.composite
def harm(draw: st.DrawFn, store: Store) -> tuple[str, bytes]:
    """An object of a store, and what is in its place.

    Not the store's id: a farm that cannot tell whose store it is does not start, and says why.
    """
    keys = sorted(key for key in store.list("") if key != "store.json")
    key = draw(st.sampled_from(keys))
    data = read(store, key)
    kind = draw(st.sampled_from(["empty", "cut", "noise", "other"]))
    if kind == "cut" and data:
        return key, data[: draw(st.integers(0, len(data) - 1))]
    if kind == "noise":
        return key, draw(st.binary(min_size=1, max_size=200))
    if kind == "other":
        return key, read(store, draw(st.sampled_from(keys)))
    return key, b""


def read(store: Store, key: str) -> bytes:
    stored = store.get(key)
    assert stored is not None
    return stored.data


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def harm_is_bounded(working: Path, scratch: Path, key: str, bad: bytes) -> None:
    folder = scratch / digest_of(key.encode() + bad)[:16]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(working, folder)
    store = open_store(str(folder))
    may_fail = owners(store, key) if bad != read(store, key) else set()
    store.put(key, bad)
    asyncio.run(goes_on(folder, may_fail))
    kept = [read(store, key) for key in store.list("quarantine/") if key.endswith("/object")]
    assert len(kept) <= 1
    assert all(each == bad for each in kept)
    shutil.rmtree(folder)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_one_broken_object_stops_nobody_else(working: Path, scratch: Path, data: Any) -> None:
    harm_is_bounded(working, scratch, *data.draw(harm(open_store(str(working)))))


def test_a_deleted_job_leaves_no_idempotency_record(tmp_path: Path) -> None:
    async def work() -> None:
        async with coordinator(tmp_path) as farm:
            await farm.submit(asked("gone", 1), PICTURES[0])
            await farm.submit(asked("stays", 2), PICTURES[0])
            await ended(farm, "gone")
            await farm.delete("gone")

    asyncio.run(work())
    (claim,) = open_store(str(tmp_path)).list("idempotency/")
    assert b'"stays"' in read(open_store(str(tmp_path)), claim)
