"""Clips that several tenants' jobs wait for: which tenant pays, and which jobs hear of them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from farm.coordinator.clips import Clip, Failed, Finished, Started
from farm.coordinator.sharing import urgency_of
from farm.model.job import ClipResult, Event, JobRecord, State
from farm.model.plan import Kind
from farm.scheduling.state import Urgency
from farm.store.keys import artifact_keys, result_key
from tests.model.test_job import job as job_of
from tests.support.core import Core, run


def test_a_clip_leaves_the_queue_and_the_cap_of_the_tenant_that_cancels(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await core.admit("first", "one", created_at=1.0)
        await core.admit("second", "two", created_at=5.0)
        clip, scheduler = core.the_clip(), core.scheduler
        scheduler.join("renderer-0", Kind.RENDERER)
        (assignment,) = scheduler.assign(9.0)
        assert scheduler.busy == {"one": 1}
        assert core.sharing.withdraw("first") == []
        assert (clip.urgency.tenant, clip.urgency.submitted) == ("two", 5.0)
        assert scheduler.busy == {"one": 0, "two": 1}
        # The cap of one is free for another clip of theirs; that of two is taken.
        scheduler.join("renderer-1", Kind.RENDERER)
        params = job_of().request.params.model_copy(update={"seed": 77})
        request = job_of().request.model_copy(update={"params": params})
        await core.admit("third", "one", request=request)
        (other,) = scheduler.assign(9.0)
        assert other.run.urgency.tenant == "one"
        scheduler.finish(assignment.worker)
        assert scheduler.busy == {"one": 1, "two": 0}

    run(tmp_path, test, one=1, two=1)


def test_a_clip_whose_first_job_is_paused_is_the_others(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        await core.admit("first", "one")
        await core.admit("second", "two")
        clip = core.the_clip()
        for event, tenant, held in (
            (Event.PAUSE, "two", False),
            (Event.RESUME, "one", False),
        ):
            await core.book.transition("first", event)
            core.sharing.update_urgency("first")
            assert (clip.urgency.tenant, clip.urgency.held) == (tenant, held)
        for name in ("first", "second"):
            await core.book.transition(name, Event.PAUSE)
            core.sharing.update_urgency(name)
        assert (clip.urgency.tenant, clip.urgency.held) == ("one", True)

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([{}], Urgency("default", 100.0, 50)),
        ([{"state": State.PAUSED}], Urgency("default", 100.0, 50, held=True)),
        ([{}, {"priority": 70, "created_at": 1.0}], Urgency("default", 100.0, 70)),
        (
            [{"state": State.PAUSED, "priority": 90}, {"tenant": "two", "created_at": 300.0}],
            Urgency("two", 300.0, 90),
        ),
    ],
)
def test_the_urgency_of_jobs(jobs: list[dict[str, Any]], expected: Urgency) -> None:
    assert urgency_of([job_of(**changes) for changes in jobs]) == expected


def test_a_job_and_its_clip_have_the_same_place(tmp_path: Path) -> None:
    """In the queue that people are shown, and in the one that workers are served by."""

    async def test(core: Core) -> None:
        for number, priority in enumerate((50, 10, 90, 50)):
            request = job_of().request
            params = request.params.model_copy(update={"seed": number})
            request = request.model_copy(update={"params": params})
            await core.admit(f"job-{number}", priority=priority, request=request)
        places = {job: core.sharing.queue.position(job) for job in core.sharing._clips_of}
        order = sorted(core.dispatcher.clips.values(), key=lambda clip: clip.urgency.rank)
        assert {clip.jobs[0]: place for place, clip in enumerate(order)} == places
        assert places["job-2"] == 0

    run(tmp_path, test)


def test_the_first_job_pays_and_all_are_finished(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        for name in ("first", "second"):
            await core.admit(name)
        clip = core.the_clip()
        core.sharing.apply(Started(clip))
        assert [core.book.open[name].state for name in clip.jobs] == [State.RUNNING] * 2
        core.scheduler.withdraw(clip)
        core.sharing.apply(Finished(clip, result_of(clip)))
        assert [core.book.open[name].state for name in ("first", "second")] == [State.COMPLETED] * 2
        assert [core.book.open[name].gpu_seconds for name in ("first", "second")] == [1.0, 0.0]
        assert core.sharing._clips_of == {}

    run(tmp_path, test)


def test_a_clip_that_fails_cancels_the_other_clips_of_its_jobs_alone(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        two = job_of().request.model_copy(update={"num_videos": 2})
        await core.admit("fails", request=two)
        first, second = core.dispatcher.clips.values()
        await core.admit("goes-on", request=second.request)
        core.sharing.apply(Failed(first, "it is broken"))
        assert core.book.open["fails"].state is State.FAILED
        assert core.book.open["fails"].error == "it is broken"
        assert second.jobs == ["goes-on"]
        assert not second.gone

    run(tmp_path, test)


def test_a_check_tells_no_tenant_what_another_has_rendered(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        job = await core.admit("first", "one")
        clip = core.the_clip()
        result = result_of(clip)
        core.store.put(result_key(clip.id), result.model_dump_json().encode())
        await expect_finished(core, job, one=0, two=0)  # it is not done yet
        core.scheduler.withdraw(clip)
        core.sharing.apply(Finished(clip, result))
        await expect_finished(core, job, one=1, two=0)
        core.sharing = core.new_sharing()
        await expect_finished(core, job, one=1, two=0)
        await core.admit("second", "two")  # it is answered with the clip all the same
        await expect_finished(core, job, one=1, two=1)
        core.sharing = core.new_sharing()
        await expect_finished(core, job, one=1, two=1, three=0)

    run(tmp_path, test)


async def expect_finished(core: Core, job: JobRecord, **expected: int) -> None:
    """What each tenant is told of a request."""
    await asyncio.sleep(0.2)  # what is written behind is there
    for tenant, count in expected.items():
        asked = job.model_copy(update={"tenant": tenant})
        assert await core.sharing.done_already(asked) == count, tenant


def result_of(clip: Clip) -> ClipResult:
    video, thumbnail, sprite_sheet = artifact_keys(clip.id, "1-1")
    return ClipResult(
        request=clip.request,
        sha256="0" * 64,
        video=video,
        thumbnail=thumbnail,
        sprite_sheet=sprite_sheet,
        seconds={},
        gpu_seconds=1.0,
        attempts=1,
        worker="renderer-0",
        fence=1,
        finished_at=1.0,
    )
