"""`python -m tests.partition`: a host that renders is cut off from the others, and comes back.

Three hosts in network namespaces: the head, with the S3 server, and two that render. Ray chooses
where the coordinator runs. One of the two is cut off in the middle of a clip, first until shortly
before Ray would give it up, then for longer. Every clip must have the frames of `engine.render`.
Measured is when the work moved and when the host was back.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import tests.conftest  # noqa: F401  # isort: skip: Ray reads its environment when it is imported

import ray

from farm.client.farm import Farm
from farm.client.ray_link import connect
from farm.model.job import State
from farm.settings import load_settings
from svd_engine.tiny import write_tiny
from tests.support.farm_jobs import (
    expected_sha256,
    finish,
    picture_bytes,
    submission,
    wait_for,
)
from tests.support.namespaces import HEAD, Host, alone, hosts
from tests.support.s3_server import s3_environment, s3_server

PORT = 6379
RAY = Path(sys.prefix) / "bin/ray"
# By default Ray gives a node up after about a minute without an answer: five times 3 s and 10 s.
SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
BRIEF_S = 4.0  # a cut that Ray does not notice
STEPS = 40
PICTURE = picture_bytes()
PATIENCE_S = 240.0


@dataclass(frozen=True)
class Measured:
    """Seconds, unless it says otherwise."""

    kept: bool  # whether the host that was cut off for BRIEF_S was the same node afterwards
    brief_retries: int  # tasks that were begun again because of that
    given_up: float  # from the second cut until Ray says that the node is dead
    moved: float  # from that cut until another host has the clip
    finished: float  # from that cut until all clips are complete, while it lasts
    ended: float  # from the healing until the former node's raylet has ended
    back: float  # from the healing until the host renders again
    took_over: bool  # whether the coordinator was on the host that was cut off, and is another now
    jobs: int  # all complete once, with the frames of `engine.render`
    logged: tuple[str, ...]  # why tasks were begun again


def measure(soon: bool = True) -> Measured:
    """Run it in namespaces of its own. soon: Ray gives a node up after seconds."""
    environment = os.environ | (SOON if soon else {})
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "measured.json")
        words = [sys.executable, "-m", "tests.partition", "--inside", result]
        subprocess.run(alone(*words), env=environment, stdout=sys.stderr, check=True)
        found = json.loads(result.read_text())
        return Measured(**found | {"logged": tuple(found["logged"])})


@contextmanager
def farm_of_hosts(folder: Path) -> Iterator[tuple[Farm, list[Host]]]:
    """A farm on three hosts; this process is on the head. folder: an empty one."""
    with ExitStack() as stack:
        workers = stack.enter_context(hosts("worker-1", "worker-2"))
        server = stack.enter_context(s3_server(folder / "s3", HEAD))
        stack.enter_context(s3_environment(server))
        start = [RAY, "start", "--disable-usage-stats", "--object-store-memory=200000000"]
        head = [f"--node-ip-address={HEAD}", f"--port={PORT}", "--head", "--num-cpus=0"]
        _start([*start, *head, "--include-dashboard=false"], folder / "head.log")
        for host in workers:
            join = [f"--address={HEAD}:{PORT}", f"--node-ip-address={host.address}"]
            supervised = ["sh", "-c", 'while :; do "$@"; sleep 1; done', "supervisor"]
            _start(
                host.command(*supervised, *start, *join, "--num-cpus=2", "--block"),
                folder / f"{host.name}.log",
            )
        wait_for(_joined, PATIENCE_S)
        stack.callback(ray.shutdown)
        yield connect(load_settings(store=server.url, segment_steps=10)), workers


def _joined() -> bool:
    try:
        ray.init(f"{HEAD}:{PORT}", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        return False
    return True


def _start(command: Sequence[object], log: Path) -> None:
    with log.open("ab") as file:
        subprocess.Popen([*map(str, command)], stdout=file, stderr=file)


class Scenario:
    """What happens, in order."""

    def __init__(self, farm: Farm, workers: list[Host], model: Path) -> None:
        self.farm, self.workers, self.model = farm, workers, model
        self.jobs: list[str] = []

    def run(self) -> Measured:
        self.wait_for_workers()
        kept, retries = self.cut_briefly()
        fence = self.farm.ready()["fence"]
        times = self.cut_for_long()
        took_over = self.farm.ready()["fence"] > fence
        self.use_again()
        self.check()
        whys = tuple(why for job in self.jobs for why in self.retries(job))
        return Measured(kept, retries, *times, took_over, len(self.jobs), whys)

    def cut_briefly(self) -> tuple[bool, int]:
        """Cut a host off, and heal that before Ray notices."""
        jobs = self.submit(2)
        host, _ = self.rendering(jobs)
        node = self.node(host)
        host.cut()
        time.sleep(BRIEF_S)
        host.heal()
        finish(self.farm, *jobs)
        return self.node(host) == node, sum(len(self.retries(job)) for job in jobs)

    def cut_for_long(self) -> tuple[float, float, float, float, float]:
        """Cut a host off until all is done without it, and heal that; the times of `Measured`."""
        jobs = self.submit(4)
        host, job = self.rendering(jobs)
        since = _timer()
        host.cut()
        wait_for(lambda: not self.node(host), PATIENCE_S)
        given_up = since()
        wait_for(lambda: self.retries(job), PATIENCE_S)
        moved = since()
        finish(self.farm, *jobs)
        finished = since()
        assert host.runs("raylet"), "a raylet that is cut off goes on"
        since = _timer()
        host.heal()
        wait_for(lambda: not host.runs("raylet"), PATIENCE_S)
        ended = since()
        self.wait_for_workers()
        return given_up, moved, finished, ended, since()

    def use_again(self) -> None:
        """Render on both hosts. Raises AssertionError if one of them is not used."""
        jobs = self.submit(4)
        idle = {host.name: host for host in self.workers}

        def used() -> bool:
            for name, host in [*idle.items()]:
                if self.busy(host, jobs):
                    del idle[name]
            return not idle

        wait_for(used, PATIENCE_S)
        finish(self.farm, *jobs)

    def submit(self, count: int) -> list[str]:
        first = len(self.jobs)
        for seed in range(first, first + count):
            # Without chunks, decoders on several hosts share a clip.
            values = {"num_inference_steps": STEPS, "decode_chunk_size": None}
            asked = submission(self.model, seed=seed, **values)
            self.jobs.append(self.farm.submit(asked, PICTURE).job.id)
        return self.jobs[first:]

    def rendering(self, jobs: Sequence[str]) -> tuple[Host, str]:
        """A host that is in the middle of rendering one of the jobs, and that job."""

        def found() -> tuple[Host, str] | None:
            for host in self.workers:
                for job in self.busy(host, jobs):
                    if self.farm.show(job).progress.step >= 5:
                        return host, job
            return None

        chosen: tuple[Host, str] = wait_for(found, PATIENCE_S)
        return chosen

    def busy(self, host: Host, jobs: Sequence[str]) -> list[str]:
        """Those of the jobs that the host renders."""
        workers = self.farm.status()["workers"]
        clips = {
            worker.get("clip")
            for name, worker in workers.items()
            if name.startswith("renderer") and _address(worker) == host.address
        }
        return [job for job in jobs if self.farm.show(job).job.request.digest in clips]

    def wait_for_workers(self) -> None:
        """Wait until each host has a renderer and a decoder that are up."""
        addresses = sorted(host.address for host in self.workers for _ in range(2))

        def up() -> bool:
            workers = self.farm.status()["workers"].values()
            return sorted(filter(None, map(_address, workers))) == addresses

        wait_for(up, PATIENCE_S)

    def node(self, host: Host) -> str:
        """The host's node that Ray takes to be alive; empty if there is none."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        return "".join(n["NodeID"] for n in alive if n["NodeManagerAddress"] == host.address)

    def retries(self, job: str) -> list[str]:
        """Why a job's work was begun again: by the same coordinator, or `recover` by another."""
        again = [entry for entry in self.farm.events(job) if entry.event in ("retry", "recover")]
        return [entry.data.get("why", entry.event) for entry in again]

    def check(self) -> None:
        """All jobs are complete, once, with the engine's own frames. Raises AssertionError."""
        for job in self.jobs:
            view = self.farm.show(job)
            assert view.job.state is State.COMPLETED, (job, view.job.error)
            found = [result.sha256 for result in view.job.results]
            assert found == expected_sha256(self.model, PICTURE, view), job
            assert [entry.event for entry in self.farm.events(job)].count("complete") == 1, job


def _address(worker: dict[str, object]) -> str:
    """Where a worker that is up runs; empty if it is not."""
    return str(worker.get("place") or "").rpartition(":")[0]


def _timer() -> Callable[[], float]:
    """Seconds since this call."""
    began = time.monotonic()
    return lambda: time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.partition")
    parser.add_argument("--slowly", action="store_true", help="by Ray's own limits: minutes")
    parser.add_argument("--inside", type=Path, help="the file for what is measured in namespaces")
    options = parser.parse_args()
    if options.inside is None:
        for name, value in asdict(measure(soon=not options.slowly)).items():
            print(f"{name:14} {value:.1f}" if isinstance(value, float) else f"{name:14} {value}")
        return
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny(Path(folder, "tiny"))
        with farm_of_hosts(Path(folder)) as (farm, workers):
            measured = Scenario(farm, workers, model).run()
            options.inside.write_text(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
