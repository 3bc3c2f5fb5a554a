"""Quotas: what a tenant may use on a day, and store; the others notice nothing."""

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from farm.client.http_remote import RETRYABLE
from farm.coordinator.quotas import COUNT_S, Quotas
from farm.coordinator.reports import TaskDone, TaskFailed
from farm.errors import QuotaError, RequestError
from farm.ingress.errors import api_error
from farm.model.job import State
from farm.model.plan import Kind
from farm.model.usage import ByDay, Usage
from farm.records.open_jobs import OpenJobs
from farm.scheduling.state import Fault
from farm.settings import load_settings
from farm.workers.faults import TaskError
from tests.coordinator.test_retention import PICTURES, asked, finish, render
from tests.model.test_job import job as job_of
from tests.support.core import Core, ManualClock, run
from tests.support.inline_farm import coordinator, inline

__all__ = ["inline"]

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


class Alone:
    """Quotas without a store."""

    def __init__(self, **settings: Any) -> None:
        self.clock, self.open = ManualClock(), OpenJobs()
        self.clock.time = NOON
        self.used: ByDay = {}
        self.stored: dict[str, int] = {}
        self.counts = 0
        arguments = self.clock, self.open, self._usage, self._count
        self.quotas = Quotas(load_settings(**settings), *arguments)

    async def _usage(self, since: date) -> ByDay:
        return {key: used for key, used in self.used.items() if key[0] >= since}

    async def _count(self) -> dict[str, int]:
        self.counts += 1
        await asyncio.sleep(0.01)
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
        await alone.quotas.check_room("other")
        assert alone.counts == 0  # nobody asked for what is unlimited
        alone.stored = {"acme": 1000, "other": 10**9}
        with pytest.raises(QuotaError, match=r"'acme' has stored 1.0 kB, and may store 1.0 kB"):
            await alone.quotas.check_room("acme")
        alone.stored = {"acme": 500}  # some jobs were deleted
        with pytest.raises(QuotaError):
            await alone.quotas.check_room("acme")
        alone.clock.time += COUNT_S
        await alone.quotas.check_room("acme")
        await alone.quotas.check_room("acme")
        assert alone.counts == 2
        many = Alone(max_stored_bytes={"*": 1000})
        await asyncio.gather(*(many.quotas.check_room(f"tenant-{n}") for n in range(50)))
        assert many.counts == 1

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
            first = await render(farm, "acme")
            assert first.state is State.COMPLETED
            assert first.results[0].bytes == sum(
                (tmp_path / key).stat().st_size for key in first.results[0].artifact_keys()
            )
            with pytest.raises(QuotaError, match="delete some of its jobs"):
                await farm.submit(asked("acme", 1), PICTURES[0])
            await render(farm, "other", 1)
            waits = (await farm.submit(asked("busy", 3), PICTURES[0])).job
            while not (view := await farm.show(waits.id)).progress.blocked:
                await asyncio.sleep(0.05)  # until its first task is charged
            assert "'busy' has used its 1e-09 GPU seconds" in view.progress.blocked
            await render(farm, "other", 4)
        async with coordinator(tmp_path) as farm:
            assert (await finish(farm, waits.id)).state is State.COMPLETED

    asyncio.run(test())
