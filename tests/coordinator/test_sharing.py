"""Clips that several tenants' jobs wait for: which tenant pays, and which jobs hear of them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from farm.background import Background
from farm.coordinator.clips import Clip
from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.sharing import Sharing
from farm.model.job import ClipResult, Event, Job
from farm.model.plan import Kind, plan
from farm.records.job_book import Book
from farm.scheduling.scheduler import Scheduler
from farm.store.keys import result_key
from farm.store.local import LocalStore
from tests.model.test_job import job as job_of


class Still:
    """A dispatcher that hands clips to the scheduler, and starts none."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.clips: dict[str, Clip] = {}
        self.scheduler = scheduler

    def add(self, clip: Clip, step: int = 0) -> None:
        self.clips[clip.run.id] = clip
        self.scheduler.add(clip.run, plan(clip.request, 5, step))

    def poke(self) -> None: ...


class Here:
    """A book, a scheduler with a worker for each tenant at most, and what shares clips."""

    def __init__(self, folder: Path) -> None:
        async def ended(_: Job) -> None: ...

        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        self.background, self.store = Background(4), LocalStore(str(folder))
        self.scheduler = Scheduler({"one": 1, "two": 1})
        self.book = Book(self.store, self.background, 1, nothing, ended, nothing)
        self.sharing = self.anew()

    def anew(self) -> Sharing:
        """As a coordinator that has begun just now has it."""
        sharing = Sharing(self.store, self.background, self.book, self.scheduler, lambda _: None)
        sharing.dispatcher = cast("Dispatcher", Still(self.scheduler))
        return sharing

    async def admit(self, name: str, tenant: str, **changes: Any) -> Job:
        asked = job_of().model_copy(update={"id": name, "tenant": tenant, **changes})
        admitted, _ = await self.book.create(asked)
        await self.sharing.admit(admitted)
        return admitted

    def the_clip(self) -> Clip:
        (clip,) = self.sharing.dispatcher.clips.values()
        return clip


def run(folder: Path, test: Callable[[Here], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        await test(Here(folder))

    asyncio.run(asyncio.wait_for(all_of_it(), 60))


def test_a_clip_leaves_the_queue_and_the_cap_of_the_tenant_that_cancels(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        await here.admit("first", "one", created_at=1.0)
        await here.admit("second", "two", created_at=5.0)
        clip, scheduler = here.the_clip(), here.scheduler
        scheduler.join("renderer-0", Kind.RENDERER)
        (assignment,) = scheduler.assign(9.0)
        assert scheduler.busy == {"one": 1}
        assert here.sharing.part("first") == []
        assert (clip.run.tenant, clip.run.submitted) == ("two", 5.0)
        assert scheduler.busy == {"one": 0, "two": 1}
        # The cap of one is free for another clip of theirs; that of two is taken.
        scheduler.join("renderer-1", Kind.RENDERER)
        params = job_of().request.params.model_copy(update={"seed": 77})
        request = job_of().request.model_copy(update={"params": params})
        await here.admit("third", "one", request=request)
        (other,) = scheduler.assign(9.0)
        assert other.run.tenant == "one"
        scheduler.finish(assignment.worker)
        assert scheduler.busy == {"one": 1, "two": 0}

    run(tmp_path, test)


def test_a_clip_whose_first_job_is_paused_is_the_others(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        await here.admit("first", "one")
        await here.admit("second", "two")
        run = here.the_clip().run
        for event, tenant, held in (
            (Event.PAUSE, "two", False),
            (Event.RESUME, "one", False),
        ):
            await here.book.tell("first", event)
            here.sharing.settle("first")
            assert (run.tenant, run.held) == (tenant, held)
        for name in ("first", "second"):
            await here.book.tell(name, Event.PAUSE)
            here.sharing.settle(name)
        assert (run.tenant, run.held) == ("one", True)

    run(tmp_path, test)


def test_a_check_tells_no_tenant_what_another_has_rendered(tmp_path: Path) -> None:
    async def test(here: Here) -> None:
        job = await here.admit("first", "one")
        clip = here.the_clip()
        result = result_of(clip)
        here.store.put(result_key(clip.run.id), result.model_dump_json().encode())
        await told(here, job, one=0, two=0)  # it is not done yet
        del here.sharing.dispatcher.clips[clip.run.id]
        here.sharing.finished(clip, result)
        await told(here, job, one=1, two=0)
        here.sharing = here.anew()
        await told(here, job, one=1, two=0)
        await here.admit("second", "two")  # it is answered with the clip all the same
        await told(here, job, one=1, two=1)
        here.sharing = here.anew()
        await told(here, job, one=1, two=1, three=0)

    run(tmp_path, test)


async def told(here: Here, job: Job, **expected: int) -> None:
    """What each tenant is told of a request."""
    await asyncio.sleep(0.2)  # what is written behind is there
    for tenant, count in expected.items():
        asked = job.model_copy(update={"tenant": tenant})
        assert await here.sharing.done_already(asked) == count, tenant


def result_of(clip: Clip) -> ClipResult:
    return ClipResult(
        request=clip.request,
        sha256="0" * 64,
        video="video",
        thumbnail="thumbnail",
        sprite_sheet="sprites",
        seconds={},
        gpu_seconds=1.0,
        attempts=1,
        worker="renderer-0",
        fence=1,
        finished_at=1.0,
    )
