"""Quotas: what a tenant may use on a day, and store; the others notice nothing."""

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from farm.client.http_remote import RETRYABLE
from farm.coordinator.quotas import COUNT_S, RECORDS, Quotas
from farm.coordinator.reports import TaskDone, TaskFailed
from farm.errors import QuotaError, RequestError, StoreError
from farm.ingress.errors import api_error
from farm.model.job import JobRecord, State
from farm.model.plan import Kind
from farm.model.usage import ByDay, Usage
from farm.records.open_jobs import OpenJobs
from farm.scheduling.state import Fault
from farm.settings import load_settings
from farm.workers.faults import TaskError
from tests.coordinator.test_retention import PICTURES, asked, finish, render
from tests.model.test_job import job as job_of
from tests.support.core import Core, ManualClock, run
from tests.support.inline_farm import coordinator, inline, parts

__all__ = ["inline"]

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


class Alone:
    """Quotas without a store."""

    def __init__(self, **settings: Any) -> None:
        self.clock, self.open = ManualClock(), OpenJobs()
        self.clock.time = NOON
        self.used: ByDay = {}
        self.stored: dict[str, int] = {}
        self.counts, self.trouble = 0, False
        self.jobs: dict[str, JobRecord] = {}
        self.go_on = asyncio.Event()
        self.go_on.set()
        calls = self._usage, self._count, self._size, self._read
        self.quotas = Quotas(load_settings(**settings), self.clock, self.open, *calls)

    async def _usage(self, since: date) -> ByDay:
        return {key: used for key, used in self.used.items() if key[0] >= since}

    async def _size(self, picture: str) -> int:
        if self.trouble:
            raise StoreError("no answer")
        return 100

    async def _read(self, job: str) -> JobRecord | None:
        return self.jobs.get(job)

    async def _count(self) -> dict[str, int]:
        self.counts += 1
        await self.go_on.wait()
        return dict(self.stored)


def test_a_day_counts_ended_open_and_running_work() -> None:
    async def test() -> None:
        alone = Alone(max_gpu_seconds={"acme": 10.0})
        alone.used[date(2026, 11, 27), "acme"] = Usage(gpu_seconds=100.0)
        alone.used[date(2026, 11, 28), "acme"] = Usage(gpu_seconds=4.0)
        alone.used[date(2026, 11, 28), "other"] = Usage(gpu_seconds=400.0)
        alone.open["job-1"] = job_of(tenant="acme", gpu_seconds=5.0)
        await alone.quotas.load()
        assert alone.quotas.held() == {}
        await alone.quotas.load()  # a start that is repeated counts nothing twice
        alone.quotas._charge("acme", 0.5)
        assert alone.quotas.held() == {}
        alone.quotas._charge("acme", 0.5)
        (why,) = alone.quotas.held().values()
        assert "tenant 'acme' has used its 10 GPU seconds of 2026-11-28" in why
        assert "00:00 UTC" in why
        alone.clock.time = NOON + 12 * 3600
        assert alone.quotas.held() == {}
        alone.quotas._charge("acme", 10)
        assert alone.quotas.held().keys() == {"acme"}

    asyncio.run(test())


def test_whoever_is_not_named_has_the_limit_of_all_others() -> None:
    alone = Alone(max_gpu_seconds={"acme": 10.0, "*": 1.0})
    for tenant in ("acme", "other"):
        alone.quotas._charge(tenant, 5.0)
    assert alone.quotas.held().keys() == {"other"}


@pytest.mark.parametrize("name", ["FARM_MAX_GPU_SECONDS", "FARM_MAX_STORED_BYTES"])
@pytest.mark.parametrize("value", ['{"a": 0}', '{"a b": 1}', '{"a": "x"}', "5", '{"**": 1}'])
def test_what_is_no_quota_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=name):
        load_settings()


def test_the_tasks_of_a_held_tenant_wait_and_the_others_go_on(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await core.admit("first", "one")
        core.held = {"one": "tenant 'one' has used its day"}
        core.maintenance.enforce_limits()
        core.add_worker(Kind.RENDERER)
        core.dispatcher.postprocess(*await core.dispatcher.reports())
        core.dispatcher.schedule()
        assert not core.workers.running
        assert core.sharing.why_blocked(core.book.open["first"]) == core.held["one"]
        # Another tenant that asks for the same clip has it rendered, and is charged.
        await core.admit("second", "two")
        assert core.sharing.why_blocked(core.book.open["second"]) == ""
        assert core.the_clip().urgency.tenant == "two"
        core.sharing.withdraw("second")
        assert core.the_clip().urgency.held
        core.held = {}
        core.maintenance.enforce_limits()
        assert not core.the_clip().urgency.held
        await core.book.logs.flush("first")
        events = [entry.event for entry in await core.book.logs.entries("first", 0)]
        assert events == ["submitted", "blocked", "unblocked"]

    run(tmp_path, test)


def test_tasks_are_charged_whether_they_succeed_or_not(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await core.admit("first", "one")
        core.add_worker(Kind.RENDERER)
        core.dispatcher.postprocess(*await core.dispatcher.reports())
        (assignment,) = core.scheduler.assign(0.0)
        alone = Alone(max_gpu_seconds={"*": 3.0})
        alone.quotas.count_report(TaskDone(assignment, [], [0.5, 0.5]))
        assert alone.quotas.held() == {}
        alone.quotas.count_report(TaskFailed(assignment, TaskError(Fault.ERROR, "broke"), 2.0))
        assert alone.quotas.held().keys() == {"one"}

    run(tmp_path, test)


def test_room_is_counted_anew_before_anybody_is_refused_but_not_each_time() -> None:
    async def test() -> None:
        alone = Alone(max_stored_bytes={"acme": 1000})
        alone.stored = {"acme": 1000, "other": 10**9}
        await alone.quotas.check_room(job_of(tenant="acme"))
        assert alone.counts == 0  # it is not known yet
        await alone.quotas.count()
        await alone.quotas.check_room(job_of(tenant="other"))  # which is not limited
        alone.clock.time += COUNT_S
        with pytest.raises(QuotaError, match=r"'acme' has stored 1.0 kB, and may store 1.0 kB"):
            await alone.quotas.check_room(job_of(tenant="acme"))
        assert alone.counts == 2
        alone.stored = {"acme": 500}  # some jobs were deleted
        with pytest.raises(QuotaError):
            await alone.quotas.check_room(job_of(tenant="acme"))
        alone.clock.time += COUNT_S
        await asyncio.gather(*(alone.quotas.check_room(job_of(tenant="acme")) for _ in range(50)))
        assert alone.counts == 3

    asyncio.run(test())


def test_whoever_has_room_waits_for_no_count() -> None:
    async def test() -> None:
        alone = Alone(max_stored_bytes={"*": 1000})
        alone.stored = {"full": 1000}
        await alone.quotas.count()
        alone.clock.time += COUNT_S
        alone.go_on.clear()
        full = asyncio.create_task(alone.quotas.check_room(job_of(tenant="full")))
        await asyncio.sleep(0)
        await asyncio.wait_for(alone.quotas.check_room(job_of(tenant="other")), 1)
        assert not full.done()
        alone.go_on.set()
        with pytest.raises(QuotaError):
            await full

    asyncio.run(test())


def test_a_call_that_is_repeated_is_not_refused_and_a_silent_store_harms_nobody() -> None:
    async def test() -> None:
        alone = Alone(max_stored_bytes={"acme": 1000})
        alone.stored = {"acme": 1000}
        await alone.quotas.count()
        alone.jobs["job-1"] = job_of(tenant="acme")
        await alone.quotas.check_room(alone.jobs["job-1"])
        alone.trouble = True
        await alone.quotas.count_job(job_of(tenant="acme"))
        assert alone.quotas._stored_by("acme") == 1000 + RECORDS

    asyncio.run(test())


def test_what_comes_between_two_counts_counts() -> None:
    async def test() -> None:
        alone = Alone(max_stored_bytes={"acme": 1_000_000})
        await alone.quotas.count()
        for number in range(2):  # of one picture
            await alone.quotas.count_job(job_of(id=f"job-{number}", tenant="acme"))
        assert alone.quotas._stored_by("acme") == 2 * RECORDS + 100
        alone.go_on.clear()
        counting = asyncio.create_task(alone.quotas.count())
        await asyncio.sleep(0)
        await alone.quotas.count_job(job_of(id="job-2", tenant="acme"))
        alone.stored = {"acme": 5}
        alone.go_on.set()
        await counting
        assert alone.quotas._stored_by("acme") == RECORDS + 100 + 5

    asyncio.run(test())


def test_over_http_a_full_quota_is_403_which_no_client_tries_again() -> None:
    answer = api_error(QuotaError("too much"))
    assert (answer.status, answer.code, answer.message) == (403, "quota_exceeded", "too much")
    assert answer.status not in RETRYABLE


def test_a_farm_with_quotas(tmp_path: Path, inline: None) -> None:
    async def test() -> None:
        quotas: dict[str, Any] = {
            "max_stored_bytes": {"acme": 1},
            "max_gpu_seconds": {"busy": 1e-9},
        }
        async with coordinator(tmp_path, **quotas) as farm:
            quotas_of = (await parts(farm)).quotas
            while quotas_of._stale_at is None:
                await asyncio.sleep(0.01)
            first = await farm.submit(asked("acme", idempotency_key="a"), PICTURES[0])
            done = await finish(farm, first.job.id)
            assert done.results[0].bytes == sum(
                (tmp_path / key).stat().st_size for key in done.results[0].artifact_keys()
            )
            with pytest.raises(QuotaError, match="delete some of its jobs"):
                await farm.submit(asked("acme", 1), PICTURES[0])
            # A call that is repeated, because its answer was lost, is answered.
            again = await farm.submit(asked("acme", idempotency_key="a"), PICTURES[0])
            assert again.job.id == first.job.id
            await render(farm, "other", 1)
            waits = (await farm.submit(asked("busy", 3), PICTURES[0])).job
            while not (view := await farm.show(waits.id)).progress.blocked:
                await asyncio.sleep(0.05)  # until its first task is charged
            assert "'busy' has used its 1e-09 GPU seconds" in view.progress.blocked
            await render(farm, "other", 4)
        async with coordinator(tmp_path) as farm:
            assert (await finish(farm, waits.id)).state is State.COMPLETED

    asyncio.run(test())
