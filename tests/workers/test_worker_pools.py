"""The two kinds of workers: threads of this process, and Ray's watch over an actor without Ray."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest

from farm.background import Background
from farm.errors import GpuMemoryError, WorkerError
from farm.model.plan import Kind, Stage, Task
from farm.model.request import Model
from farm.model.task_order import Order, Step
from farm.scheduling.placement import Node, place_workers
from farm.scheduling.state import Fault
from farm.workers.faults import TaskError
from farm.workers.in_process import InProcessWorkers
from farm.workers.pool import RayPool
from farm.workers.protocol import WorkerJoined, WorkerLeft, WorkerReport
from tests.model.test_plan import request

SLOTS = place_workers([Node("here", cpus=1.0)])


class Obedient:
    """Takes two steps, or hangs, or fails, as a task's key says."""

    let_go = threading.Event()

    def run(self, order: Order, *inputs: Any) -> Generator[Step, bool | None, Any]:
        yield Step(1)
        if order.task.key == "hang":
            self.let_go.wait(30)
        if order.task.key == "fail":
            raise GpuMemoryError("it is full")
        if order.task.key == "slow":
            while True:
                time.sleep(0.001)
                yield Step(2)
        yield Step(2)
        return [order.task.key, *inputs]


@pytest.fixture
def let_go() -> Iterator[None]:
    yield
    Obedient.let_go.set()


def order(key: str) -> Order:
    return Order(request(), Model(), Task(key, Stage.DENOISE), f"1-{key}")


def on_threads(
    test: Callable[[InProcessWorkers, list[WorkerReport]], Awaitable[None]],
) -> None:
    async def run() -> None:
        reports: list[WorkerReport] = []
        workers = InProcessWorkers(lambda _: Obedient(), reports.append, [Node("here", cpus=1.0)])
        assert workers.keep(place_workers(await workers.nodes())) == []
        assert reports == [WorkerJoined(f"{kind}-0", kind) for kind in Kind]
        await test(workers, reports)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_task_yields_steps_and_a_result() -> None:
    async def test(workers: InProcessWorkers, _: list[WorkerReport]) -> None:
        steps: list[Step] = []
        ref, seconds = await workers.run("renderer-0", order("one"), [None], steps.append)
        assert await ref == ["one", None]
        assert await ref == ["one", None]  # as often as it is needed
        other, took = await workers.run("decoder-0", order("two"), [ref], steps.append)
        assert await other == ["two", ["one", None]]
        assert steps == [Step(1), Step(2)] * 2
        assert min(seconds, took) > 0

    on_threads(test)


@pytest.mark.parametrize(("key", "fault"), [("fail", Fault.MEMORY), ("slow", Fault.STOPPED)])
def test_what_ends_a_task_is_told(key: str, fault: Fault) -> None:
    async def test(workers: InProcessWorkers, _: list[WorkerReport]) -> None:
        def stop(_: Step) -> None:
            workers.stop("renderer-0", "1-slow")

        with pytest.raises(TaskError) as caught:
            await workers.run("renderer-0", order(key), [], stop)
        assert caught.value.fault is fault

    on_threads(test)


@pytest.mark.usefixtures("let_go")
def test_a_worker_that_hangs_is_replaced() -> None:
    async def test(workers: InProcessWorkers, reports: list[WorkerReport]) -> None:
        begun = asyncio.Event()
        running = asyncio.ensure_future(
            workers.run("renderer-0", order("hang"), [], lambda _: begun.set())
        )
        await begun.wait()
        reports.clear()
        workers.restart("renderer-0")
        with pytest.raises(TaskError, match="has died") as caught:
            await running
        assert caught.value.fault is Fault.LOST
        left, joined = reports
        assert isinstance(left, WorkerLeft)
        assert joined == WorkerJoined("renderer-0", Kind.RENDERER)
        ref, _ = await workers.run("renderer-0", order("one"), [], lambda _: None)
        assert await ref == ["one"]

    on_threads(test)


def test_slots_that_go() -> None:
    async def test(workers: InProcessWorkers, _: list[WorkerReport]) -> None:
        assert workers.keep(SLOTS) == []
        assert workers.keep(SLOTS[:1]) == ["decoder-0"]
        workers.retire("decoder-0")
        with pytest.raises(TaskError, match="decoder-0 is gone"):
            await workers.run("decoder-0", order("one"), [], lambda _: None)

    on_threads(test)


class NoActors(RayPool):
    """Ray's, where actors cannot be started, or come up and die."""

    dies = True

    def _start(self, name: str) -> Any:
        if self.dies:
            raise WorkerError("no room in /srv/ray")
        return object()

    async def _begin(self, name: str, actor: Any) -> None:
        self.places[name] = "here:1"
        self._report(WorkerJoined(name, self.slots[name].kind))

    async def _follow(self, actor: Any) -> None:
        raise WorkerError("it was killed")

    def _kill(self, name: str) -> None:
        self._actors.pop(name, None)


def watched(report: Callable[[WorkerReport], None], until: Callable[[RayPool], bool]) -> list[str]:
    """What failed in the background of a pool with one worker, by then."""
    failures: list[str] = []

    async def run() -> None:
        background = Background(1, failures.append)
        store: Any = None
        pool = NoActors(store, background, report, "none", False, 60.0)
        pool.keep(SLOTS[:1])
        while not until(pool) and not failures:
            await asyncio.sleep(0.01)
        await background.cancel_all()

    asyncio.run(asyncio.wait_for(run(), 60))
    return failures


def test_an_actor_that_does_not_start_is_reported_without_directories() -> None:
    reports: list[WorkerReport] = []
    assert watched(reports.append, lambda pool: bool(pool.troubles)) == []
    assert reports[0] == WorkerLeft("renderer-0", "no room in ray")


def test_an_actor_that_dies_is_reported_and_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoActors, "dies", False)
    reports: list[WorkerReport] = []
    assert watched(reports.append, lambda _: len(reports) >= 4) == []
    pair = [WorkerJoined("renderer-0", Kind.RENDERER), WorkerLeft("renderer-0", "it was killed")]
    assert reports[:4] == pair * 2


def test_a_watch_that_fails_is_not_silent() -> None:
    """Nobody would restart its worker any more: the process is to end."""

    def broken(_: WorkerReport) -> None:
        raise ZeroDivisionError("a bug")

    (failure,) = watched(broken, lambda _: False)
    assert failure == "RayPool._watch failed: ZeroDivisionError('a bug')"


def test_a_worker_that_is_not_up_is_not_ended() -> None:
    """It is the successor of the one that is meant."""

    async def run() -> None:
        store: Any = None
        pool = RayPool(store, Background(1), lambda _: None, "none", False, 60.0)
        pool._actors["renderer-0"] = actor = object()
        pool.restart("renderer-0")
        assert pool._actors == {"renderer-0": actor}

    asyncio.run(run())
