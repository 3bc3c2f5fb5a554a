"""Large requests: plans are made as needed, and finished clips are looked up in parallel."""

import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.coordinator.sharing import LOOKUPS
from farm.model.job import JobRecord
from farm.model.plan import Kind, Stage, Task, plan
from farm.scheduling.scheduler import NEAR, Scheduler
from farm.scheduling.state import Run, Urgency
from farm.store import Stored
from farm.store.local import LocalStore
from tests.model.test_job import job
from tests.model.test_plan import request
from tests.support.core import Core, run

LARGE = {"num_inference_steps": 1000, "num_frames": 1024, "decode_chunk_size": 1}


class Slow(LocalStore):
    """A folder whose answers take a while; it counts those that are asked for at once."""

    at_once = most = asked = 0
    wait_s = 0.0
    lock = threading.Lock()

    def get(self, key: str) -> Stored | None:
        self._wait()
        return super().get(key)

    def exists(self, key: str) -> bool:
        self._wait()
        return super().exists(key)

    def _wait(self) -> None:
        with self.lock:
            self.at_once += 1
            self.asked += 1
            self.most = max(self.most, self.at_once)
        time.sleep(self.wait_s)
        with self.lock:
            self.at_once -= 1


def admit(store: LocalStore, asked: JobRecord) -> int:
    """How many clips are to be rendered."""
    admitted: list[int] = []

    async def test(core: Core) -> None:
        await core.book.create(asked)
        await core.sharing.admit(asked)
        admitted.append(len(core.sharing.under_way(asked.id)))

    run(store, test)
    return admitted[0]


def test_a_plan_is_drawn_as_its_clip_gets_on() -> None:
    drawn: list[Task] = []

    def counted() -> Iterator[Task]:
        for task in plan(request(**LARGE), 5):
            drawn.append(task)
            yield task

    scheduler, run = Scheduler[Run](), Run("clip", "model", Urgency("tenant", 0.0))
    scheduler.join("renderer", Kind.RENDERER)
    for number in range(2 * NEAR):
        scheduler.join(f"decoder-{number}", Kind.DECODER)
    scheduler.add(run, counted())
    assert [task.stage for task in drawn] == [Stage.ENCODE, Stage.DENOISE]
    at_most, done = 0, 0
    while not run.done:
        assignments = list(scheduler.assign(0.0))
        assert assignments
        # Each idle decoder has a chunk, though fewer than that are near at any time.
        left = 1024 - sum(task.stage is Stage.DECODE for task in drawn)
        if assignments[0].task.stage is Stage.DECODE and left:
            assert len(assignments) == 2 * NEAR
        for assignment in assignments:
            scheduler.finish(assignment.worker)
            done += 1
        at_most = max(at_most, len(drawn) - done)
    assert done == 1 + 200 + 1024 + 1
    assert at_most <= 3 * NEAR + 1


def test_a_large_request_takes_little_memory(tmp_path: Path) -> None:
    asked = job(request=request(num_videos=100, **LARGE))
    tracemalloc.start()
    try:
        assert admit(LocalStore(str(tmp_path)), asked) == 100
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20  # 70 MB where plans are whole
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("videos", [1, 300])
def test_finished_clips_are_looked_for_side_by_side(tmp_path: Path, videos: int) -> None:
    store = Slow(str(tmp_path))
    store.wait_s = 0.02
    assert admit(store, job(request=request(num_videos=videos))) == videos
    assert store.asked == videos
    assert store.most <= LOOKUPS
    assert videos == 1 or store.most > LOOKUPS // 4


def test_what_may_be_done_already_is_looked_for_so_too(tmp_path: Path) -> None:
    store = Slow(str(tmp_path))
    store.wait_s = 0.02

    async def test(core: Core) -> None:
        assert await core.sharing.done_already(job(request=request(num_videos=100))) == 0

    run(store, test)
    assert store.asked == 100
    assert LOOKUPS // 4 < store.most <= LOOKUPS
