"""The render loop alone: schedule, run, postprocess, on workers whose tasks a test ends."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from farm.coordinator.clips import Failed, Finished, Previewed, Progressed, Retried, Started
from farm.coordinator.render_loop import render_forever
from farm.errors import StoreError
from farm.model.job import Event, State
from farm.model.plan import Kind, Stage
from farm.model.task_order import Step
from farm.scheduling.state import Fault
from farm.store.keys import checkpoint_key, result_key
from tests.support.core import Core, die, fail, finish, run


def kinds(events: list[Any]) -> list[type]:
    return [type(event) for event in events]


def test_a_clip_from_its_job_to_its_result(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        for kind in Kind:
            core.add_worker(kind)
        await core.admit("job-1")
        clip = core.the_clip()
        events = await core.render(clip)
        stages = [1 for event in events if isinstance(event, Started)]
        assert len(stages) == 1 + 5 + 1 + 1  # encode, segments, decode, mux
        assert isinstance(events[-1], Finished)
        assert core.store.exists(result_key(clip.id))
        assert (clip.step, clip.chunks, clip.gpu_seconds) == (25, 1, 16.0)
        assert clip.renderer == "renderer-0@here:0"
        assert core.dispatcher.clips == {}
        assert core.sharing.under_way("job-1") == []
        job = await core.job("job-1")
        assert job.state is State.COMPLETED
        assert job.gpu_seconds == 16.0

    run(tmp_path, test)


def test_steps_and_previews_are_told_as_they_come(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        finish(await core.run_one(Kind.RENDERER))
        await core.step()
        running = await core.run_one(Kind.RENDERER)
        for step in (Step(0), Step(1), Step(1), Step(2, previewed=2)):
            running.on_step(step)
        assert kinds(await core.step()) == [Progressed, Progressed, Previewed]
        assert (core.the_clip().step, core.the_clip().previewed) == (2, 2)

    run(tmp_path, test)


def test_a_failed_attempt_is_retried_elsewhere_and_then_given_up(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        clip = core.the_clip()
        for attempt in (1, 2, 3):
            fail(await core.run_one(Kind.RENDERER), why="no driver")
            events = await core.step()
            core.clock.time += 100.0
            if attempt < 3:
                (event,) = events
                assert isinstance(event, Retried)
                assert f"attempt {attempt} on renderer-0: no driver" in event.why
        (event,) = events
        assert isinstance(event, Failed)
        assert "3 workers failed at conditioning; the last error: no driver" in event.error
        assert clip.gone
        assert "job-1" not in core.sharing._clips_of
        assert (await core.job("job-1")).state is State.FAILED
        assert (await core.job("job-1")).attempts == 2

    run(tmp_path, test)


def test_a_worker_that_dies_is_free_of_its_task_at_once(tmp_path: Path) -> None:
    """Its task and the pool both report the death: it counts once."""

    async def test(core: Core) -> None:
        name = core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        await core.run_one(Kind.RENDERER)
        die(core, name)
        events = await core.steps_until(lambda: name not in core.workers.running)
        events += await core.step() if core.inbox._messages else []
        assert kinds(events) == [Retried]
        assert core.scheduler.workers == {}
        assert core.the_clip().attempts["conditioning"] == 1
        assert core.workers.restarted == [name]  # which the pool ignores: it is not up

    run(tmp_path, test)


def test_lost_results_are_rendered_again_from_the_last_checkpoint(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        clip = core.the_clip()
        for _ in range(3):  # encode, and steps up to 10
            finish(await core.run_one(Kind.RENDERER))
            await core.steps_until(lambda: not core.workers.running)
        core.store.put(checkpoint_key(clip.id, 5), b"")
        fail(await core.run_one(Kind.RENDERER), Fault.STALE, "its input is gone")
        await core.steps_until(lambda: clip.rewinds)
        assert (clip.step, clip.furthest[0], clip.refs) == (5, 10, {})
        running = await core.run_one(Kind.RENDERER)
        assert running.order.task.span == (5, 10)
        assert list(running.inputs) == [None]  # from the store

    run(tmp_path, test)


def test_a_worker_without_progress_is_taken_its_task(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        name = core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        running = await core.run_one(Kind.RENDERER)
        core.clock.time += 500.0
        core.dispatcher.end_stalled(stall_s=60.0, load_s=600.0)  # its model may be loading
        running.on_step(Step(0))
        await core.step()
        core.clock.time += 59.0
        core.dispatcher.end_stalled(stall_s=60.0, load_s=600.0)
        assert core.inbox.take_now() == []
        core.clock.time += 2.0
        core.dispatcher.end_stalled(stall_s=60.0, load_s=600.0)
        (event,) = await core.step()
        assert isinstance(event, Retried)
        assert "no progress within 60 s" in event.why
        assert core.workers.restarted == [name]
        assert core.scheduler.workers[name].draining

    run(tmp_path, test)


def test_a_cancelled_clip_is_stopped_and_waited_for(tmp_path: Path) -> None:
    async def test(core: Core) -> None:
        name = core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        running = await core.run_one(Kind.RENDERER)
        (clip,) = core.sharing.withdraw("job-1")
        stopping = core.dispatcher.cancel(clip)
        await asyncio.sleep(0)
        assert not stopping.done()
        assert core.workers.stopped == [name]
        core.clock.time += 7.0
        fail(running, Fault.STOPPED)
        assert await core.steps_until(stopping.done) == []
        assert clip.gpu_seconds == 7.0
        assert core.scheduler.workers[name].task is None

    run(tmp_path, test)


# An unexpected error, at each place where it once left a worker busy or a clip open


def test_before_a_task_is_given_to_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as if the worker had failed: the worker is free, and the clip fails in the end."""

    async def test(core: Core) -> None:
        core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        clip = core.the_clip()
        nothing: dict[str, Any] = {}
        monkeypatch.setattr(clip, "inputs", lambda _: nothing["/srv/secret"])

        def free() -> bool:
            core.clock.time += 100.0
            return clip.gone

        events = await core.steps_until(free)
        assert isinstance(events[-1], Failed)
        assert events[-1].error.endswith("KeyError('secret')")  # clients are told no paths
        assert core.scheduler.workers["renderer-0"].task is None
        assert (await core.job("job-1")).state is State.FAILED

    run(tmp_path, test)


@pytest.mark.parametrize("where", ["commit", "last_checkpoint"])
def test_at_a_clips_work_on_the_store(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails the clip: to try again would fail again."""

    async def test(core: Core) -> None:
        for kind in Kind:
            core.add_worker(kind)
        await core.admit("job-1")
        clip = core.the_clip()

        async def broken(*_: Any) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(core.clip_store, where, broken)
        if where == "last_checkpoint":
            fail(await core.run_one(Kind.RENDERER), Fault.STALE)
            events = await core.steps_until(lambda: clip.gone)
        else:
            events = await core.render(clip)
        assert isinstance(events[-1], Failed)
        assert "ZeroDivisionError('a bug')" in events[-1].error
        assert (await core.job("job-1")).state is State.FAILED

    run(tmp_path, test)


def test_at_the_clearing_of_a_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it, so that the process is to end."""

    async def test(core: Core) -> None:
        async def broken(*_: Any) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(core.clip_store, "clear", broken)
        await core.admit("job-1")
        await core.dispatcher.cancel(core.the_clip())
        for _ in range(5):
            await asyncio.sleep(0)
        (failure,) = core.failures
        core.failures.clear()
        assert "ZeroDivisionError('a bug')" in failure

    run(tmp_path, test)


def test_in_the_loop_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is to end: the next one reads from the store how jobs are."""

    async def test(core: Core) -> None:
        core.add_worker(Kind.RENDERER)
        await core.admit("job-1")
        core.the_clip().jobs.append("nobody's")
        parts = core.dispatcher, core.sharing, core.metrics, core.quotas
        core.background.run_forever(render_forever(*parts))
        while not core.failures:
            await asyncio.sleep(0)
        (failure,) = core.failures
        core.failures.clear()
        assert failure == 'render_forever failed: KeyError("nobody\'s")'

    run(tmp_path, test)


def test_at_a_write_of_a_jobs_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(core: Core) -> None:
        await core.admit("job-1")

        def broken(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(core.store, "put", broken)
        with pytest.raises(ZeroDivisionError):
            await core.book.transition("job-1", Event.PAUSE)
        (failure,) = core.failures
        core.failures.clear()
        assert "ZeroDivisionError('a bug')" in failure

    run(tmp_path, test)


def test_a_store_that_is_away_at_the_commit_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.store.retry.RETRY_S", 0.01)

    async def test(core: Core) -> None:
        for kind in Kind:
            core.add_worker(kind)
        await core.admit("job-1")
        clip, put, refused = core.the_clip(), core.store.put, list[str]()

        def away(key: str, *given: Any, **named: Any) -> str:
            if key == result_key(clip.id) and len(refused) < 3:
                refused.append(key)
                raise StoreError("it is away")
            return put(key, *given, **named)

        monkeypatch.setattr(core.store, "put", away)
        events = await core.render(clip)
        assert isinstance(events[-1], Finished)
        assert len(refused) == 3
        assert clip.stage is Stage.MUX

    run(tmp_path, test)
