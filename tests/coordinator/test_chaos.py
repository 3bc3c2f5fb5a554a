"""Chaos: whatever is killed, every job is completed once, with the right frames."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from farm.client.farm import Farm
from farm.errors import StoreError
from farm.model.job import ClipResult, State
from farm.store import Store, open_store
from farm.store.keys import CHECKPOINTS, result_key
from tests.support.farm_jobs import (
    expected_sha256,
    finish,
    kill,
    open_farm,
    picture_bytes,
    submission,
    wait_for,
)
from tests.support.programs import kill_family
from tests.support.ray_cluster import local_cluster
from tests.support.s3_server import s3_environment, s3_server

pytestmark = pytest.mark.ray

PICTURE = picture_bytes()
STEPS = 12


def submit(farm: Farm, tiny: Path, count: int) -> list[str]:
    asked = [submission(tiny, seed=n, num_inference_steps=STEPS) for n in range(count)]
    return [farm.submit(each, PICTURE).job.id for each in asked]


def check(farm: Farm, tiny: Path, jobs: list[str]) -> None:
    """All complete, none twice, each as `engine.render` alone makes it."""
    store = farm.store()
    for job in jobs:
        view = farm.show(job)
        assert view.job.state is State.COMPLETED, (job, view.job.error)
        assert [r.sha256 for r in view.job.results] == expected_sha256(tiny, PICTURE, view)
        stored = store.get(result_key(view.job.request.digest))
        assert stored is not None
        assert ClipResult.model_validate_json(stored.data).video == view.job.results[0].video
        assert store.exists(view.job.results[0].video)
    finished = [[e.event for e in farm.events(job)].count("complete") for job in jobs]
    assert finished == [1] * len(jobs)
    assert not list(store.list("open/"))
    wait_for(lambda: not list(store.list(CHECKPOINTS)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_jobs_while_anybody_is_killed(tiny: Path, tmp_path: Path) -> None:
    """Renderers, decoders, the coordinator and nodes, at random, at least ten times."""
    chance = random.Random(0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    try:
        farm = open_farm(tmp_path / "store", max_jobs=100)
        jobs = submit(farm, tiny, 30)
        kills: list[str] = []
        while len(kills) < 12 or any(farm.show(j).job.state.is_open for j in jobs):
            if not any(farm.show(job).job.state.is_open for job in jobs):
                break
            time.sleep(chance.uniform(1.0, 3.0))
            what = ("worker", "worker", "coordinator", "node")[len(kills) % 4]
            workers = farm.status()["workers"]
            up = [name for name, worker in workers.items() if worker.get("place")]
            if len(kills) >= 14 or (what == "worker" and not up):
                continue
            if what == "worker":
                kill(workers[chance.choice(up)]["place"])
            elif what == "coordinator":
                kill(f":{farm.ready()['pid']}")
            else:
                cluster.remove_node(nodes.pop(0), allow_graceful=False)
                nodes.append(cluster.add_node(num_cpus=2))
            kills.append(what)
        finish(farm, *jobs)
        assert len(kills) >= 10, kills
        assert set(kills) == {"worker", "coordinator", "node"}
        check(farm, tiny, jobs)
    finally:
        ray.shutdown()
        cluster.shutdown()


DRIVER = """
import sys, time
from contextlib import suppress
from pathlib import Path
from tests.coordinator.test_chaos import open_farm, submit
from tests.support.ray_cluster import local_cluster
with local_cluster():
    farm = open_farm(sys.argv[2])
    print(*submit(farm, Path(sys.argv[1]), 6), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_everything_killed_at_once_and_started_anew(tiny: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-c", DRIVER, str(tiny), str(store)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    jobs = driver.stdout.readline().split()
    assert len(jobs) == 6
    for _ in range(600):
        if list(store.glob("checkpoints/*/*")):
            break
        time.sleep(0.1)
    kill_family(driver)
    driver.stdout.close()
    assert list(store.glob("open/*"))
    with local_cluster():
        farm = open_farm(store)
        finish(farm, *jobs)
        check(farm, tiny, jobs)
        assert any(e.event == "recover" for job in jobs for e in farm.events(job))


@pytest.mark.slow
def test_the_s3_server_away_for_20_seconds_at_work(tiny: Path, tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3") as server, s3_environment(server), local_cluster():
        store: Store = open_store(server.url)
        farm = open_farm(server.url)
        jobs = submit(farm, tiny, 4)
        while not list(store.list("checkpoints/")):
            time.sleep(0.1)
        acknowledged: list[str] = []

        def go_on_submitting() -> None:
            for n in range(4):
                asked = submission(tiny, seed=100 + n, num_inference_steps=STEPS)
                while len(acknowledged) == n:  # the same request is the same job
                    with suppress(StoreError):
                        acknowledged.append(farm.submit(asked, PICTURE).job.id)

        submitter = threading.Thread(target=go_on_submitting)
        server.stop()
        submitter.start()
        time.sleep(20)
        server.start()
        submitter.join(timeout=150)
        jobs += acknowledged
        assert len(jobs) == 8
        finish(farm, *jobs)
        check(farm, tiny, jobs)


def test_a_job_on_s3(tiny: Path, tmp_path: Path) -> None:
    """The whole way on a real S3 server, the coordinator killed in the midst of it."""
    with s3_server(tmp_path / "s3") as server, s3_environment(server), local_cluster():
        farm = open_farm(server.url)
        jobs = submit(farm, tiny, 1)
        while not list(farm.store().list("checkpoints/")):
            time.sleep(0.1)
        os.kill(farm.ready()["pid"], signal.SIGKILL)
        finish(farm, *jobs)
        check(farm, tiny, jobs)
