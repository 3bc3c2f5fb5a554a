"""What the coordinator measures of jobs, tasks, workers and its store."""

import asyncio
from pathlib import Path

import pytest

from farm.coordinator.metrics import band_of, count_job
from farm.errors import ConflictError, StoreError
from farm.metrics import catalogue
from farm.model.job import Event, State
from farm.model.plan import Kind, Stage
from farm.scheduling.state import Fault
from farm.store import identify
from farm.store.known import KnownStore
from farm.store.local import LocalStore
from farm.store.quarantine import move_aside
from tests.support.core import Core, die, fail, finish, run
from tests.support.inline_farm import coordinator, parts
from tests.support.recorded import Recorded


def test_tasks_of_a_clip(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        for kind in Kind:
            core.add_worker(kind)
        await core.admit("job-1")
        await core.render(core.the_clip())
        recorded = core.recorded
        tasks = {
            stage: recorded.value(catalogue.TASKS, stage=stage, outcome="done") for stage in Stage
        }
        assert tasks == {Stage.ENCODE: 1, Stage.DENOISE: 5, Stage.DECODE: 1, Stage.MUX: 1}
        # A task of these workers takes 2 s.
        assert recorded.value(catalogue.BUSY_SECONDS, kind=Kind.RENDERER) == 12.0
        assert recorded.value(catalogue.BUSY_SECONDS, kind=Kind.DECODER) == 4.0
        assert recorded.count(catalogue.TASK_SECONDS, stage=Stage.DENOISE) == 5
        count_job(recorded, await core.job("job-1"))
        assert recorded.value(catalogue.JOBS, tenant="one", state=State.COMPLETED) == 1
        assert recorded.value(catalogue.GPU_SECONDS, tenant="one") == 16.0
        assert recorded.value(catalogue.CLIPS, source="rendered") == 1

        await core.admit("job-2", force=False)
        count_job(recorded, await core.job("job-2"))
        assert recorded.value(catalogue.CLIPS, source="reused") == 1
        assert recorded.value(catalogue.GPU_SECONDS) == 16.0

    run(tmp_path, test)


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.MEMORY, Fault.STORE])
def test_retries_by_reason(tmp_path: Path, fault: Fault) -> None:
    async def test(core: Core) -> None:
        core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        fail(await core.run_one(Kind.RENDERER), fault)
        await core.step()
        recorded = core.recorded
        assert recorded.value(catalogue.TASKS, stage=Stage.ENCODE, outcome=fault) == 1
        assert recorded.value(catalogue.RETRIES, reason=fault) == 1
        assert recorded.value(catalogue.TASKS, outcome="done") == 0

    run(tmp_path, test)


def test_a_workers_death_is_one_retry(tmp_path: Path) -> None:
    """The pool and the task both report it."""

    async def test(core: Core) -> None:
        name = core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        await core.run_one(Kind.RENDERER)
        die(core, name)
        await core.steps_until(lambda: core.recorded.value(catalogue.TASKS))
        assert core.recorded.value(catalogue.RETRIES, reason=Fault.LOST) == 1
        assert core.recorded.value(catalogue.TASKS, outcome=Fault.LOST) == 1

    run(tmp_path, test)


def test_what_the_farm_has_now(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        recorded, open_jobs = core.recorded, catalogue.OPEN_JOBS
        core.add_worker(Kind.RENDERER)
        old = await core.admit("job-1", priority=10)
        await core.admit("job-2", tenant="two", priority=90)
        await core.admit("job-3", tenant="two", priority=90)
        core.clock.time = old.created_at + 30.0
        core.metrics.report_state()
        assert recorded.value(open_jobs, tenant="one", priority="low", state=State.QUEUED) == 1
        assert recorded.value(open_jobs, tenant="two", priority="high", state=State.QUEUED) == 2
        assert recorded.value(catalogue.QUEUE_AGE, tenant="one", priority="low") == 30.0
        assert recorded.value(catalogue.WORKERS, kind=Kind.RENDERER, state="starting") == 1
        assert recorded.value(catalogue.STORE_WRITABLE) == 1

        await core.run_one(Kind.RENDERER)
        await core.book.transition("job-2", Event.PAUSE)
        core.write_error = StoreError("the disk is full")
        core.metrics.report_state()
        assert recorded.value(catalogue.WORKERS, state="busy") == 1
        assert recorded.value(catalogue.WORKERS, state="starting") == 0
        assert recorded.value(open_jobs, tenant="two", state=State.PAUSED) == 1
        assert recorded.value(open_jobs) == 3
        assert recorded.value(catalogue.STORE_WRITABLE) == 0

    run(tmp_path, test)


def test_what_is_gone_is_zero_and_not_stale(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await core.admit("job-1")
        core.metrics.report_state()
        assert core.recorded.value(catalogue.OPEN_JOBS, tenant="one") == 1
        core.sharing.withdraw("job-1")
        await core.book.transition("job-1", Event.CANCEL)
        await core.book.transition("job-1", Event.STOPPED)
        core.metrics.report_state()
        assert core.recorded.value(catalogue.OPEN_JOBS, tenant="one") == 0
        assert core.recorded.value(catalogue.QUEUE_AGE, tenant="one") == 0

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("priority", "band"),
    [(0, "low"), (33, "low"), (34, "normal"), (50, "normal"), (67, "normal"), (68, "high")],
)
def test_bands_of_priority(priority: int, band: str) -> None:
    assert band_of(priority) == band
    assert band_of(100) == "high"


class FullStore(LocalStore):
    def put(self, key: str, *_: object, **__: object) -> str:
        if key.startswith("full"):
            raise StoreError("no space left")
        if key.startswith("taken"):
            raise ConflictError("it is there already")
        return ""


def test_calls_of_the_store(tmp_path: Path) -> None:
    recorded, plain = Recorded(), LocalStore(str(tmp_path))
    store = KnownStore(plain, identify(plain)).metered(recorded)
    store.put("a", b"1")
    store.get("a"), store.exists("a"), store.size("a"), list(store.list(""))
    store.delete("a")
    calls = {
        operation: recorded.count(catalogue.STORE_SECONDS, operation=operation)
        for operation in ("put", "get", "head", "list", "delete")
    }
    assert calls == {"put": 1, "get": 1, "head": 2, "list": 1, "delete": 1}
    assert recorded.value(catalogue.STORE_ERRORS) == 0

    full = KnownStore(FullStore(str(tmp_path)), identify(plain)).metered(recorded)
    with pytest.raises(StoreError, match="no space"):
        full.put("full", b"")
    with pytest.raises(ConflictError):  # an answer, not a failure
        full.put("taken", b"")
    assert recorded.value(catalogue.STORE_ERRORS, operation="put") == 1


def test_a_whole_coordinator_measures_its_store_and_state(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path) as running:
            recorded = running._meter
            assert isinstance(recorded, Recorded)
            (await parts(running)).metrics.report_state()
            assert recorded.count(catalogue.STORE_SECONDS, operation="put")
            assert recorded.value(catalogue.WORKERS, state="idle") == len(Kind)
            assert recorded.value(catalogue.STORE_WRITABLE) == 1
            move_aside(await running.store(), "jobs/broken.json", b"?", "it is no JSON")
            await running.status()  # looks into the quarantine
            (await parts(running)).metrics.report_state()
            assert recorded.value(catalogue.QUARANTINED) == 1

    asyncio.run(test())


def test_a_task_that_is_finished_once_counts_once(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        finish(await core.run_one(Kind.RENDERER))
        await core.step()
        assert core.recorded.value(catalogue.TASKS) == 1

    run(tmp_path, test)
