"""`python -m tests.elastic`: a farm whose nodes come and go, with Ray's own fake nodes.

Ray's autoscaler runs as on a cloud, but its nodes are processes of this machine. Measured are the
times from a submit to the first step, from nothing and with a worker that is up; the time until the
last node is gone; and what is lost when a node is taken away at a notice.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from farm.client.farm import Farm
from farm.client.ray_link import connect
from farm.model.job import JobRecord, State, Submission
from farm.model.request import Model
from farm.settings import load_settings
from svd_engine import Engine, RenderParams
from tests.batch.test_detach import started_by_ray
from tests.support.farm_jobs import picture_bytes, wait_for
from tests.support.ports import free_ports
from tests.support.programs import running

IDLE_S = 5.0  # until workers without work are ended, and again until Ray ends their node
PATIENCE_S = 60.0
CPUS = 2.0  # of a node
SIZE = {"width": 64, "height": 64, "num_frames": 5}
CONFIG: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": IDLE_S / 60,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": CPUS}, "node_config": {}, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    # What Ray requires, and its fake nodes do not use.
    **{name: {} for name in ("auth", "file_mounts", "head_node", "worker_nodes")},
    **{
        name: []
        for name in (
            *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands"),
            *("setup_commands", "head_setup_commands", "worker_setup_commands"),
            *("head_start_ray_commands", "worker_start_ray_commands"),
        )
    },
    "file_mounts_sync_continuously": False,
}


@dataclass(frozen=True)
class Measured:
    """Seconds, unless it says otherwise."""

    from_nothing: float  # from a submit to the first step, when there is no node
    with_worker: float  # the same when a worker is up
    to_nothing: float  # from the end of the last job until there is no node
    steps_lost: int  # by a notice in the middle of a clip
    handed_over: float  # from the notice until the clip's checkpoint is stored
    same_frames: bool  # whether that clip has the frames of an undisturbed one


@contextmanager
def autoscaled() -> Iterator[None]:
    """A Ray cluster with a head that has no CPU, and an autoscaler; this process joins it."""
    (port,) = free_ports(1)
    folder = tempfile.mkdtemp(prefix="ray-")
    environment = os.environ | {
        "RAY_TMPDIR": folder,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_AUTH_MODE": "disabled",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    config = Path(folder, "cluster.json")
    provider = {**CONFIG["provider"], "gcs_address": f"{ray.util.get_node_ip_address()}:{port}"}
    config.write_text(json.dumps({**CONFIG, "provider": provider}))
    ray_program = Path(sys.prefix) / "bin/ray"
    start = [ray_program, "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
    start += ["--include-dashboard=false", f"--autoscaling-config={config}"]
    with running(start, environment) as head:
        try:
            assert head.stdout is not None
            shown = iter(head.stdout.readline, "")
            assert any("--block" in line for line in shown), "Ray's head has not started"
            ray.init(f"127.0.0.1:{port}", log_to_driver=False, logging_level=logging.ERROR)
            yield
        finally:
            ray.shutdown()
            for process in started_by_ray(folder):
                process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def measure(store: Path) -> Measured:
    """Run a farm that follows demand on a cluster of its own. store: an empty folder."""
    with autoscaled():
        settings = load_settings(
            store=str(store), elastic={"CPU": CPUS}, idle_s=IDLE_S, segment_steps=100
        )
        farm = connect(settings)
        wait_for(lambda: not _nodes(), PATIENCE_S)
        from_nothing = _first_step(farm, seed=1)
        with_worker = _first_step(farm, seed=2)
        job, handed_over = _notice(farm)
        wait_for(lambda: not farm.show(job).job.state.is_open, PATIENCE_S)
        ended = time.monotonic()
        wait_for(lambda: not _nodes(), PATIENCE_S)
        to_nothing = time.monotonic() - ended
        lost, same = _steps_lost(farm, job), _same_frames(farm.show(job).job)
        return Measured(from_nothing, with_worker, to_nothing, lost, handed_over, same)


def _nodes() -> list[str]:
    """The nodes that have CPUs."""
    return [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]


def _submit(farm: Farm, seed: int, steps: int) -> str:
    params = RenderParams(**SIZE, num_inference_steps=steps, seed=seed)
    return farm.submit(Submission(model=Model(name="nano"), params=params), picture_bytes()).job.id


def _first_step(farm: Farm, seed: int) -> float:
    began = time.monotonic()
    job = _submit(farm, seed, steps=2)
    wait_for(lambda: farm.show(job).progress.step, PATIENCE_S)
    took = time.monotonic() - began
    wait_for(lambda: farm.show(job).job.state is State.COMPLETED, PATIENCE_S)
    return took


def _notice(farm: Farm) -> tuple[str, float]:
    """Take a node away while it renders a job; the job, and how long the hand-over took."""
    job = _submit(farm, seed=3, steps=60)
    wait_for(lambda: farm.show(job).progress.step >= 5, PATIENCE_S)
    (node,) = _nodes()
    noticed = time.monotonic()
    _drain_node(node)
    wait_for(lambda: "retry" in _events(farm, job), PATIENCE_S)
    return job, time.monotonic() - noticed


def _same_frames(job: JobRecord) -> bool:
    """Whether a job has the frames of an undisturbed render."""
    assert job.state is State.COMPLETED, job.error
    frames = Engine.from_pretrained("nano").render(picture_bytes(), job.request.params).frames
    return job.results[0].sha256 == hashlib.sha256(frames.tobytes()).hexdigest()


def _events(farm: Farm, job: str) -> list[str]:
    return [entry.event for entry in farm.events(job)]


def _drain_node(node: str) -> None:
    """As a cloud's notice has it done."""
    address = ray.get_runtime_context().gcs_address
    command = [str(Path(sys.prefix) / "bin/ray"), "drain-node", f"--address={address}"]
    command += [f"--node-id={node}", "--reason=DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message=notice", "--deadline-remaining-seconds=60"]
    subprocess.run(command, check=True, capture_output=True)


def _steps_lost(farm: Farm, job: str) -> int:
    """How many steps the clip went back, by its event log."""
    lost = before = 0
    for entry in farm.events(job):
        if entry.event == "progress" and (step := entry.data.get("step")) is not None:
            lost, before = max(lost, before - step), max(before, step)
    return lost


def main() -> None:
    with tempfile.TemporaryDirectory() as store:
        measured = measure(Path(store))
    for name, value in vars(measured).items():
        print(
            f"{name.replace('_', ' '):14} {value:.1f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' '):14} {value}"
        )


if __name__ == "__main__":
    main()
