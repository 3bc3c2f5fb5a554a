"""`python -m tests.soak --minutes 20`: a farm under mixed load, whose processes and store fail.

Jobs come from Python, HTTP and the batch command. Meanwhile workers, the coordinator, HTTP replicas
and batches are killed, the connections to S3 stalled and cut, and the farm's wall clock jumps an
hour forth or back, at random. A second, shorter run is on a folder whose disk is full at times. At
the end of each, every job that was acknowledged must be complete, once, with the frames that the
engine alone renders.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tests.conftest  # noqa: F401  # isort: skip: Ray reads its environment when it is imported

import httpx2
import psutil
import ray

from farm.errors import FarmError
from tests.soak_disk import soak_on_small_disk
from tests.support.farm_jobs import open_farm
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy
from tests.support.ingress_server import serving
from tests.support.jumping_clock import jumping_clock
from tests.support.programs import kill_family
from tests.support.ray_cluster import local_cluster
from tests.support.s3_server import s3_environment, s3_server
from tests.support.soaking import (
    PARAMS,
    PICTURE,
    SEEDS,
    Run,
    acknowledged,
    all_together,
    check,
    do_harm,
    for_some_seconds,
    from_python,
    jump,
    kill,
    kill_coordinator,
    kill_worker,
)

WARM_UP_MIN = 2.0  # of a process, which is left out when its memory's growth is measured
FAULTS = ("worker", "worker", "coordinator", "replica", "batch", "stall", "cut", "clock")


@dataclass
class Soak(Run):
    """What has been asked for, and what was done to the farm."""

    url: str = ""
    proxy: FaultyProxy | None = None
    batch: subprocess.Popen[bytes] | None = None
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)  # by process


def soak(minutes: float) -> Soak:
    """Run for some minutes, then check everything. Raises AssertionError."""
    with running(minutes) as run:
        works = (from_python, over_http, by_batch, harm, watch_memory, download_slowly)
        all_together([partial(work, run) for work in works], 60 * minutes)
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
        with s3_environment(server), jumping_clock() as clock, local_cluster():
            farm = open_farm(server.url, max_jobs=500)
            farm.ready()
            with serving(server.url, max_jobs=500) as url:
                until = time.monotonic() + 60 * minutes
                yield Soak(farm, clock, until, random.Random(7), url=url, proxy=proxy)


# Load


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


def harm(run: Soak) -> None:
    proxy = run.proxy
    assert proxy is not None
    harms: dict[str, Callable[[], object]] = {
        "worker": lambda: kill_worker(run),
        "coordinator": lambda: kill_coordinator(run),
        "replica": lambda: kill(run.chance.choice(_replicas()).pid),
        "batch": lambda: run.batch and kill_family(run.batch),
        "stall": lambda: for_some_seconds(run, proxy.stall, proxy.heal),
        "cut": lambda: for_some_seconds(run, proxy.cut, proxy.heal),
        "clock": lambda: jump(run),
    }
    do_harm(run, harms, FAULTS)


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=20, help="two thirds of them on S3")
    minutes = parser.parse_args().minutes
    run = soak(minutes * 2 / 3)
    show(run)
    for name, samples in run.memory.items():
        later = [each for each in samples if each[0] >= samples[0][0] + WARM_UP_MIN]
        if len(later) >= 20:
            growth, error = slope(later)
            print(
                f"{name}: {later[-1][1] / 1e6:.0f} MB after {later[-1][0] - samples[0][0]:.0f} "
                f"minutes, grew by {growth:.2f} MB a minute, +- {error:.2f}"
            )
    try:
        show(soak_on_small_disk(minutes / 3))
    except PermissionError as error:
        print(f"left out, a folder on a disk that is full at times: {error}")


def show(run: Run) -> None:
    """Print what was done."""
    for what, count in sorted(run.done.items()):
        print(f"{what:36} {count}")


if __name__ == "__main__":
    main()
