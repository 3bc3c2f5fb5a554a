"""`python -m tests.soak --minutes 20`: a farm under mixed load, whose processes and store fail.

Jobs come from Python, HTTP and the batch command. Meanwhile workers, the coordinator, HTTP replicas
and batches are killed, and the connections to S3 stalled and cut, at random. At the end every job
that was acknowledged must be complete, once, with the frames that the engine alone renders.
"""

import argparse
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import tests.conftest  # noqa: F401  # isort: skip: Ray reads its environment when it is imported

import httpx2
import psutil
import ray

from farm.client.farm import Farm
from farm.errors import FarmError
from farm.model.job import State, Submission
from farm.model.request import Model
from svd_engine import Engine, RenderParams
from tests.support.farm_jobs import open_farm, picture_bytes, wait_for
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy
from tests.support.ingress_server import serving
from tests.support.programs import kill_family
from tests.support.ray_cluster import local_cluster
from tests.support.s3_server import s3_environment, s3_server

SEEDS = 40  # different clips, so that many jobs share one
PARAMS = {"width": 64, "height": 48, "num_frames": 5, "num_inference_steps": 8}
PICTURE = picture_bytes()
WARM_UP_MIN = 2.0  # of a process, which is left out when its memory's growth is measured
DRAIN_S = 600.0  # for the jobs that are open at the end
FAULTS = ("worker", "worker", "coordinator", "replica", "batch", "stall", "cut")


@dataclass
class Soak:
    """What has been asked for, and what was done to the farm."""

    farm: Farm
    url: str
    proxy: FaultyProxy
    until: float
    chance: random.Random
    jobs: set[str] = field(default_factory=set)  # acknowledged
    done: Counter[str] = field(default_factory=Counter)  # faults, and jobs by door
    batch: subprocess.Popen[bytes] | None = None
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)  # by process

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until


def soak(minutes: float) -> Soak:
    """Run for some minutes, then check everything. Raises AssertionError."""
    with running(minutes) as run:
        workers = [
            threading.Thread(target=work, args=(run,), daemon=True)
            for work in (from_python, over_http, by_batch, do_harm, watch_memory, download_slowly)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60 * minutes + DRAIN_S)
            assert not worker.is_alive()
        run.proxy.heal()
        check(run)
        return run


@contextmanager
def running(minutes: float) -> Iterator[Soak]:
    """A farm on S3, behind the proxy, served over HTTP."""
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server(Path(folder, "s3")) as server,
        faulty_proxy(server.port) as proxy,
    ):
        server.env["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{proxy.port}"
        with s3_environment(server), local_cluster():
            farm = open_farm(server.url, max_jobs=500)
            farm.ready()
            with serving(server.url, max_jobs=500) as url:
                until = time.monotonic() + 60 * minutes
                yield Soak(farm, url, proxy, until, random.Random(7))


# Load


def from_python(run: Soak) -> None:
    while not run.over:
        with suppress(FarmError):
            params = RenderParams(seed=run.chance.randrange(SEEDS), **PARAMS)
            asked = Submission(model=Model(name="tiny"), tenant="python", params=params)
            acknowledged(run, "python", run.farm.submit(asked, PICTURE).job.id)
        time.sleep(run.chance.uniform(0.2, 1.5))


def over_http(run: Soak) -> None:
    with httpx2.Client(base_url=run.url, timeout=30) as http:
        while not run.over:
            fields = {"model": "tiny", "seed": run.chance.randrange(SEEDS), **PARAMS}
            body = {name: str(value) for name, value in fields.items()}
            with suppress(httpx2.TransportError):
                answer = http.post(
                    "/v1/videos",
                    data=body,
                    files={"input_reference": ("a.png", PICTURE)},
                    headers={"Idempotency-Key": f"{run.chance.random()}"},
                )
                if answer.status_code == 200:
                    acknowledged(run, "http", answer.json()["id"])
            time.sleep(run.chance.uniform(0.2, 1.5))


def by_batch(run: Soak) -> None:
    """A batch again and again, into the same folder: one that is killed goes on."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "picture.png").write_bytes(PICTURE)
        options = {"out": f"{folder}/out", "model": "tiny", "seeds": f"0-{SEEDS - 1}", **PARAMS}
        command = [sys.executable, "-m", "farm.batch", f"{folder}/picture.png"]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        while not run.over:
            run.batch = subprocess.Popen(
                [*command, "--store", run.farm.ready()["store"]],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if run.batch.wait() == 0:
                run.done["batches completed"] += 1
                time.sleep(5)


def acknowledged(run: Soak, door: str, job: str) -> None:
    run.jobs.add(job)
    run.done[f"submits by {door}"] += 1


def download_slowly(run: Soak) -> None:
    """A client that reads a clip byte by byte, and leaves in the middle."""
    while not run.over:
        with suppress(httpx2.TransportError, IndexError), httpx2.Client(timeout=10) as http:
            job = run.chance.choice(sorted(run.jobs))
            with http.stream("GET", f"{run.url}/v1/videos/{job}/content") as answer:
                for _ in zip(answer.iter_bytes(16), range(20), strict=False):
                    time.sleep(0.2)
            run.done["slow downloads"] += 1
        time.sleep(2)


# Harm


def do_harm(run: Soak) -> None:
    """One fault every few seconds; in the last fifth of the time all is left in peace."""
    ends = run.until - 0.2 * (run.until - time.monotonic())
    harms: dict[str, Callable[[Soak], object]] = {
        "worker": lambda run: kill(int(run.chance.choice(_places(run)).rpartition(":")[2])),
        "coordinator": lambda run: kill(run.farm.ready()["pid"]),
        "replica": lambda run: kill(run.chance.choice(_replicas()).pid),
        "batch": lambda run: run.batch and kill_family(run.batch),
        "stall": lambda run: _fault(run, run.proxy.stall),
        "cut": lambda run: _fault(run, run.proxy.cut),
    }
    while time.monotonic() < ends:
        time.sleep(run.chance.uniform(4, 12))
        what = run.chance.choice(FAULTS)
        with suppress(FarmError, IndexError, psutil.Error):
            harms[what](run)
            run.done[f"faults: {what}"] += 1


def _fault(run: Soak, begin: Callable[[], None]) -> None:
    begin()
    time.sleep(run.chance.uniform(1, 8))
    run.proxy.heal()


def kill(pid: int) -> None:
    psutil.Process(pid).kill()


def _places(run: Soak) -> list[str]:
    workers = run.farm.status()["workers"].values()
    return [worker["place"] for worker in workers if worker.get("place")]


def _replicas() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [each for each in children if "ServeReplica" in " ".join(each.cmdline())]


def watch_memory(run: Soak) -> None:
    while not run.over:
        with suppress(FarmError, psutil.Error):
            coordinator = psutil.Process(run.farm.ready()["pid"])
            for what, process in (
                ("coordinator", coordinator),
                *(("replica", p) for p in _replicas()),
            ):
                sample = time.monotonic() / 60, process.memory_info().rss
                run.memory.setdefault(f"{what} {process.pid}", []).append(sample)
        time.sleep(3)


def slope(samples: list[tuple[float, int]]) -> tuple[float, float]:
    """How fast memory grows, in MB a minute, and the standard error of that."""
    times, sizes = zip(*((at, size / 1e6) for at, size in samples), strict=True)
    growth, start = statistics.linear_regression(times, sizes)
    rest = [size - start - growth * at for at, size in zip(times, sizes, strict=True)]
    spread = sum((at - statistics.fmean(times)) ** 2 for at in times)
    return growth, (sum(r * r for r in rest) / max(1, len(rest) - 2) / spread) ** 0.5


# Check


def check(run: Soak) -> None:
    """All complete, once, and as the engine alone renders them."""
    began = time.monotonic()
    wait_for(lambda: not _open_jobs(run), DRAIN_S)
    run.done["seconds to the last job"] = round(time.monotonic() - began)
    engine = Engine.from_pretrained("tiny")
    expected: dict[int, str] = {}
    for job in sorted(run.jobs):
        record = run.farm.show(job).job
        assert record.state is State.COMPLETED, (job, record.state, record.error)
        (result,) = record.results
        params = record.request.params
        if params.seed not in expected:
            frames = engine.render(PICTURE, params).frames
            expected[params.seed] = hashlib.sha256(frames.tobytes()).hexdigest()
        assert result.sha256 == expected[params.seed], job
        events = [entry.event for entry in run.farm.events(job)]
        assert events.count("complete") == 1, (job, events)
        assert run.farm.store().exists(result.video)
    run.done["jobs checked"] = len(run.jobs)
    run.done["clips rendered"] = len(expected)


def _open_jobs(run: Soak) -> int:
    with suppress(FarmError):
        return len(run.farm.jobs("", 1000, open_only=True))
    return 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=20)
    run = soak(parser.parse_args().minutes)
    for what, count in sorted(run.done.items()):
        print(f"{what:28} {count}")
    for name, samples in run.memory.items():
        later = [each for each in samples if each[0] >= samples[0][0] + WARM_UP_MIN]
        if len(later) >= 20:
            growth, error = slope(later)
            print(
                f"{name}: {later[-1][1] / 1e6:.0f} MB after {later[-1][0] - samples[0][0]:.0f} "
                f"minutes, grew by {growth:.2f} MB a minute, +- {error:.2f}"
            )


if __name__ == "__main__":
    main()
