"""The order of waiting jobs compared with a full sort, and its cost in the event loop."""

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from farm.background import Background
from farm.coordinator.news import PAUSE_S, News
from farm.recent import Recent
from farm.scheduling.job_queue import JobQueue

JOBS = st.sampled_from([f"job-{n}" for n in range(8)])
RANKS = st.integers(-3, 3).map(float)


@given(changes=st.lists(st.tuples(JOBS, st.none() | RANKS)), most=st.integers(1, 5))
def test_positions_are_those_of_a_sort(changes: list[tuple[str, float | None]], most: int) -> None:
    queue, ranks = JobQueue(), dict[str, float]()
    for job, rank in changes:
        if rank is None:
            queue.remove(job)
            ranks.pop(job, None)
        else:
            queue.put(job, rank)
            ranks[job] = rank
    order = sorted(ranks, key=lambda job: (ranks[job], job))
    for number, job in enumerate(order):
        assert queue.position(job) == number
        sample = queue.sample_before(job, most)
        assert len(sample) == min(most, number) or 0 < len(sample) < most < number
        assert sample == [name for name in order[:number] if name in sample]


def test_the_oldest_is_forgotten() -> None:
    recent = Recent[str, int](2)
    recent["a"], recent["b"], recent["a"], recent["c"] = 1, 2, 3, 4
    assert dict(recent) == {"a": 3, "c": 4}


def test_news_are_of_the_jobs_asked_for_and_come_together() -> None:
    async def run() -> None:
        news = News(100, kept=10)
        assert await news.wait(["a", "b"], 7, 1.0) == (100, ["a", "b"])  # before this coordinator
        began = time.monotonic()
        assert await news.wait(["a"], 100, 0.05) == (100, [])
        assert time.monotonic() - began < 1
        waiting = asyncio.create_task(news.wait(["a"], 100, 5.0))
        await asyncio.sleep(0)
        news.publish("b")
        await asyncio.sleep(2 * PAUSE_S)
        assert not waiting.done()
        for _ in range(3):
            news.publish("a")
        assert await waiting == (104, ["a"])
        assert await news.wait(["a", "b"], 101, 5.0) == (104, ["a"])
        assert await news.wait(["b", "a"], 100, 5.0) == (104, ["a", "b"])

    asyncio.run(run())


def test_background_calls_do_not_block() -> None:
    async def run() -> None:
        background = Background(2)
        asleep = background.start(background.call(time.sleep, 0.2))
        began = time.monotonic()
        await asyncio.sleep(0)
        assert time.monotonic() - began < 0.1
        await asleep
        assert await background.call(divmod, 7, 3) == (2, 1)

    asyncio.run(run())
