"""Workers for the nodes that there are, deadlines, and why jobs wait, by a manual clock."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from farm.errors import JobError
from farm.model.job import State
from farm.model.plan import Kind, Stage
from farm.scheduling.placement import Node
from farm.scheduling.state import Fault
from farm.store.keys import checkpoint_key
from farm.workers.protocol import WorkerLeft
from tests.model.test_job import job as job_of
from tests.support.core import Core, fail, run


async def placed(core: Core, *nodes: str) -> None:
    core.workers.machines = [Node(name, cpus=1.0) for name in nodes]
    await core.maintenance.place_workers()
    for report in core.inbox.take_now():
        core.dispatcher.postprocess(report)


def test_workers_come_and_go_with_their_nodes(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await placed(core, "a", "b")
        both = {f"{node}-{kind}" for node in "ab" for kind in Kind}
        assert set(core.scheduler.workers) == both
        await placed(core, "b")
        assert set(core.scheduler.workers) == {"b-renderer", "b-decoder"} == set(core.workers.slots)

    run(tmp_path, test)


def test_a_worker_without_a_slot_ends_its_task_first(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await placed(core, "a")
        await core.admit("job-1")
        await core.steps_until(lambda: core.workers.running)
        await placed(core)
        assert set(core.workers.slots) == {"a-renderer"}
        assert core.scheduler.workers["a-renderer"].draining
        core.workers.running["a-renderer"].end.set_result("conditioning")
        await core.steps_until(lambda: not core.scheduler.workers["a-renderer"].task)
        await placed(core)
        assert core.workers.slots == {}
        assert core.scheduler.workers == {}

    run(tmp_path, test)


def test_a_task_on_a_node_that_leaves_hands_over(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await placed(core, "a")
        await core.admit("job-1")
        await core.steps_until(lambda: core.workers.running)
        core.workers.machines = [Node("a", cpus=1.0, leaving=True), Node("b", cpus=1.0)]
        await core.maintenance.place_workers()
        assert core.workers.handed_over == []  # encoding has no checkpoint, and is soon done
        core.workers.running["a-renderer"].end.set_result("conditioning")
        await core.steps_until(lambda: core.workers.running.get("b-renderer"))
        core.workers.machines = [Node("b", cpus=1.0, leaving=True), Node("c", cpus=1.0)]
        await core.maintenance.place_workers()
        assert core.workers.handed_over == ["b-renderer"]
        (clip,) = core.dispatcher.clips.values()
        core.store.put(checkpoint_key(clip.id, 2), b"latents")
        fail(core.workers.running["b-renderer"], Fault.STALE, "handed over after step 2")
        await core.steps_until(lambda: core.workers.running.get("c-renderer"))
        order = core.workers.running["c-renderer"].order
        assert (order.task.stage, order.task.span[0]) == (Stage.DENOISE, 2)
        assert clip.most_attempts == 1  # it is no failure

    run(tmp_path, test)


def test_workers_follow_demand(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        core.new_maintenance(elastic={"CPU": 1.0}, idle_s=30.0)
        await placed(core, "a", "b")
        assert core.workers.slots == {}
        assert core.workers.asked == [({"CPU": 1.0}, 0)]  # so that no earlier request stays
        await core.admit("job-1")
        core.maintenance.enforce_limits()
        assert "asked for 1 x 1 CPU" in core.sharing.blocked
        await placed(core, "a", "b")
        assert set(core.workers.slots) == {"a-renderer", "a-decoder"}
        await core.render(core.the_clip())
        core.clock.time += 29.0
        await placed(core, "a", "b")
        assert core.workers.slots
        core.clock.time += 1.0
        await placed(core, "a", "b")
        assert core.workers.slots == {}
        assert [count for _, count in core.workers.asked] == [0, 1, 0]

    run(tmp_path, test)


def test_no_nodes_are_asked_for_that_a_tenant_may_not_use(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        core.new_maintenance(elastic={"CPU": 1.0}, max_gpus={"capped": 2})
        for number in range(5):
            params = job_of().request.params.model_copy(update={"seed": number})
            request = job_of().request.model_copy(update={"params": params})
            tenant = "capped" if number < 4 else "other"
            await core.admit(f"job-{number}", tenant, request=request)
        await placed(core)
        assert core.workers.asked == [({"CPU": 1.0}, 3)]

    run(tmp_path, test)


def test_a_drained_worker_stays_so_when_it_is_restarted(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await placed(core, "a")
        core.maintenance.drain("a-renderer", True)
        core.inbox.put(WorkerLeft("a-renderer", "killed"))
        core.workers.join("a-renderer", core.workers.slots["a-renderer"])
        await core.admit("job-1")
        await core.step()
        assert core.scheduler.workers["a-renderer"].draining
        assert core.workers.running == {}
        core.maintenance.drain("a-renderer", False)
        await core.steps_until(lambda: core.workers.running)
        with pytest.raises(JobError, match=r"Unknown worker 'a-rendrer'.*Did you mean 'a-renderer"):
            core.maintenance.drain("a-rendrer", True)

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        ("start_within_s", "not started within 10 s"),
        ("finish_within_s", "not finished within 10 s"),
    ],
)
def test_a_job_past_its_deadline_fails_and_its_clip_is_stopped(
    limit: str, error: str, tmp_path: Path
) -> None:
    async def test(core: Core) -> None:
        changes: dict[str, Any] = {"created_at": 1000.0, limit: 10.0}
        await core.admit("job-1", **changes)
        clip = core.the_clip()
        core.clock.time += 9.0
        core.maintenance.enforce_limits()
        assert core.book.open["job-1"].state is State.QUEUED
        core.clock.time += 2.0
        core.maintenance.enforce_limits()
        assert core.book.open["job-1"].error == error
        assert clip.gone

    run(tmp_path, test)


def test_a_deadline_of_one_job_leaves_the_other_its_clip(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await core.admit("job-1", created_at=1000.0, finish_within_s=10.0)
        await core.admit("job-2", created_at=1000.0)
        core.clock.time += 11.0
        core.maintenance.enforce_limits()
        assert core.book.open["job-1"].state is State.FAILED
        assert core.the_clip().jobs == ["job-2"]

    run(tmp_path, test)


def test_jobs_are_told_why_no_worker_is_there(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        core.maintenance.enforce_limits()
        assert core.sharing.blocked == ""  # nobody knows yet
        await core.admit("job-1")
        await placed(core)
        core.maintenance.enforce_limits()
        assert "no node of the Ray cluster" in core.sharing.blocked
        assert core.published == ["job-1"]
        await placed(core, "a")
        core.maintenance.enforce_limits()
        assert core.sharing.blocked == ""
        core.maintenance.drain("a-renderer", True)
        core.maintenance.enforce_limits()
        assert "every renderer is drained" in core.sharing.blocked
        await core.book.logs.flush("job-1")
        events = [entry.event for entry in await core.book.logs.entries("job-1", 0)]
        assert events == ["submitted", "blocked", "unblocked", "blocked"]

    run(tmp_path, test)


def test_nodes_that_cannot_be_listed_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("farm.coordinator.maintenance.NODES_S", 0.01)

    async def test(core: Core) -> None:
        await placed(core, "a")
        tries = []

        async def broken() -> list[Node]:
            tries.append(1)
            raise OSError("the GCS is away")

        monkeypatch.setattr(core.workers, "nodes", broken)
        core.background.run_forever(core.maintenance.keep_workers())
        while len(tries) < 3:
            await asyncio.sleep(0.01)
        assert set(core.scheduler.workers) == {"a-renderer", "a-decoder"}
        assert "cannot place workers" in caplog.text

    run(tmp_path, test)
