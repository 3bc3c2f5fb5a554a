"""`ray job submit -- python -m farm.batch` with `ray start --head`, as an operator runs it."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from svd_engine import Engine, RenderParams
from tests.conftest import draw_picture
from tests.support.ports import free_ports

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"


def environment() -> dict[str, str]:
    """This interpreter as `python`, and no cluster but the one that is named."""
    own = {"RAY_ADDRESS", "PYTHONPATH"}
    rest = {key: value for key, value in os.environ.items() if key not in own}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return rest | {"PATH": path}


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address of a head node's dashboard, which takes jobs."""
    folder = tempfile.mkdtemp(prefix="ray-")
    port, dashboard_port = free_ports(2)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}"]
    command += [f"--port={port}", f"--dashboard-port={dashboard_port}", "--disable-usage-stats"]
    with (Path(folder) / "head.log").open("w") as log:
        head = subprocess.Popen(
            command, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for_port(dashboard_port, head)
            yield f"http://127.0.0.1:{dashboard_port}"
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "ray start ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the dashboard does not answer")


def test_ray_job_submit_runs_a_batch(dashboard: str, tiny: Path, tmp_path: Path) -> None:
    picture = draw_picture(90, 60)
    picture.save(tmp_path / "picture.png")
    out = tmp_path / "out"
    size = ["--width=64", "--height=48", "--num-frames=3", "--steps=2"]
    batch = ["python", "-m", "farm.batch", tmp_path / "picture.png", "--out", out]
    batch += ["--store", tmp_path / "store"]
    submit = [RAY, "job", "submit", "--address", dashboard, "--working-dir", ".", "--"]
    done = subprocess.run(
        [*map(str, submit), *map(str, batch), "--model", str(tiny), *size],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/1] picture-seed0: done in" in done.stdout  # plain lines in the job's log
    assert "succeeded" in done.stdout
    (row,) = json.loads((out / "summary.json").read_text())["clips"]
    params = RenderParams(width=64, height=48, num_frames=3, num_inference_steps=2)
    clip = Engine.from_pretrained(tiny).render(picture, params)
    assert row["sha256"] == hashlib.sha256(clip.frames).hexdigest()
    assert (out / "picture-seed0.mp4").stat().st_size > 0
