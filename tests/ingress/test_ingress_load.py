"""Many clients at once, while the HTTP server's processes are killed."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
import ray

import farm
from tests.support.farm_jobs import picture_bytes, wait_for
from tests.support.ingress_server import serving
from tests.support.programs import running_children

pytestmark = pytest.mark.slow

SMALL = {"width": 64, "height": 48, "num_frames": 5, "model": "tiny"}
POLLERS, STREAMS, JOBS = 200, 50, 5


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("store")) as url:
        yield url


async def poll(session: aiohttp.ClientSession, job: str, every_s: float) -> int:
    """Poll a job until it is done; how often."""
    for count in range(1, 10_000):
        async with session.get(f"/v1/videos/{job}") as answer:
            video = await answer.json()
            assert answer.status == 200, video
        assert video["status"] != "failed", video
        if video["status"] == "completed":
            return count
        await asyncio.sleep(every_s)
    raise AssertionError(f"{job} is not done")


async def follow(session: aiohttp.ClientSession, job: str) -> list[bytes]:
    """The lines of a job's event stream but for its comments, to its end."""
    async with session.get(f"/v1/videos/{job}/events") as answer:
        assert answer.status == 200
        return [line async for line in answer.content if line.strip() and line[:1] != b":"]


async def crowd(url: str, jobs: list[str]) -> tuple[list[int], list[list[bytes]]]:
    """200 who poll and 50 who follow."""
    connector = aiohttp.TCPConnector(limit=POLLERS + STREAMS)
    timeout = aiohttp.ClientTimeout(total=200)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        polls = (poll(session, jobs[n % JOBS], 1.0) for n in range(POLLERS))
        streams = (follow(session, jobs[n % JOBS]) for n in range(STREAMS))
        polled, followed = asyncio.gather(*polls), asyncio.gather(*streams)
        return await polled, await followed


def test_200_poll_and_50_follow_while_jobs_run(url: str) -> None:
    with farm.connect(url) as connection:
        jobs = [
            connection.submit(picture_bytes(), seed=n, num_inference_steps=40, **SMALL).id
            for n in range(JOBS)
        ]
        polled, followed = asyncio.run(crowd(url, jobs))
        assert len(polled) == POLLERS
        for number, lines in enumerate(followed):
            seen = [int(line.split()[1]) for line in lines if line.startswith(b"id:")]
            assert seen == list(range(1, len(seen) + 1)), "an event is lost, or told twice"
            assert lines == followed[number % JOBS], "two who follow one job were told two things"
            assert b"event: complete\n" in lines


def test_a_replica_and_the_coordinator_killed_amid_20_jobs(url: str, tmp_path: Path) -> None:
    done: list[str] = []
    under_way = threading.Event()

    def client(number: int) -> Path:
        """One who submits, waits and saves, as any user would."""
        with farm.connect(url) as connection:
            steps = 10 + number % 3
            job = connection.submit(
                picture_bytes(), seed=100 + number, num_inference_steps=steps, **SMALL
            )
            under_way.set()
            job.wait(timeout=200)
            done.append(job.id)
            return job.save(tmp_path / f"{number}.mp4")

    with ThreadPoolExecutor(20) as threads:
        clients = [threads.submit(client, number) for number in range(20)]
        under_way.wait(60)
        wait_for(lambda: len(done) >= 2)
        before = running_children("ray::ServeReplica")
        assert len(before) == 2
        before[0].send_signal(signal.SIGKILL)
        time.sleep(1.0)
        ready = ray.get(ray.get_actor("coordinator", namespace="farm").ready.remote())
        os.kill(ready["pid"], signal.SIGKILL)
        assert len(done) < 20, "they were killed too late to matter"
        saved = [each.result() for each in clients]
    assert len(set(done)) == 20
    for path in saved:
        assert path.read_bytes()[4:8] == b"ftyp"
    wait_for(lambda: len(running_children("ray::ServeReplica")) == 2)
