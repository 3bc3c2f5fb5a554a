"""A process whose Ray cluster is gone notices it within seconds, whatever it waits for."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from farm.client.ray_link import Pulse
from farm.errors import ClusterLostError, WorkerError
from farm.workers import lifeline as module
from farm.workers.lifeline import Lifeline
from tests.conftest import draw_picture
from tests.support.farm_jobs import picture_bytes, wait_for
from tests.support.programs import running

ROOT = Path(__file__).parents[2]
NODE = {"raylet": "raylet/raylet", "gcs": "gcs_server", "agent": "DashboardAgent"}  # command lines
SOON_S = 60.0  # generous: it is about 2 s, and 10 s for the GCS


@contextmanager
def listening(port: int = 0) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", port)) as server:
        yield server.getsockname()


def lost(line: Lifeline) -> str:
    try:
        line.check()
    except ClusterLostError as error:
        return str(error)
    return ""


def test_a_node_that_dies_is_lost_for_good() -> None:
    why: list[str] = []
    with listening() as gcs:
        with listening() as raylet:
            line = Lifeline(raylet, gcs, why.append)
            time.sleep(3 * module.TICK_S)
            line.check()
        assert wait_for(lambda: lost(line)) == why[0]
        assert f"nobody listens at 127.0.0.1:{raylet[1]}" in why[0]
        with listening(raylet[1]):  # another's, by chance
            time.sleep(3 * module.TICK_S)
            assert lost(line)
    assert len(why) == 1


def test_a_gcs_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GCS_S", 1.0)
    with listening() as raylet:
        with listening() as gcs:
            line = Lifeline(raylet, gcs)
            time.sleep(3 * module.TICK_S)
            line.check()
        assert f"GCS at 127.0.0.1:{gcs[1]} does not answer" in wait_for(lambda: lost(line))
        with listening(gcs[1]):
            wait_for(lambda: not lost(line))


class Silent:
    """An actor that hangs, until it is told to answer."""

    def __init__(self) -> None:
        self.pings: list[Future[None]] = []

    @property
    def ping(self) -> Any:
        return self

    def remote(self) -> Any:
        return self

    def future(self) -> Future[None]:
        self.pings.append(Future())
        return self.pings[-1]


def test_a_silent_coordinator_is_told_from_a_slow_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0
    monkeypatch.setattr("farm.client.ray_link.time.monotonic", lambda: now)
    actor = Silent()
    pulse = Pulse(actor, 30.0)
    for now in range(100):  # noqa: B007
        pulse.check()
        if actor.pings:
            actor.pings[-1].cancel()  # answered
    assert len(actor.pings) >= 20
    pulse.check()
    for now in range(100, 131):  # noqa: B007
        pulse.check()
    assert caplog.text.count("the coordinator has not answered for 11 s") == 1
    now = 139
    with pytest.raises(WorkerError, match="has not answered for 36 s: it hangs, or Ray cannot"):
        pulse.check()
    actor.pings[-1].set_result(None)
    pulse.check()


def children_of(process: subprocess.Popen[str], command: str) -> list[psutil.Process]:
    family = psutil.Process(process.pid).children(recursive=True)
    return [p for p in family if p.cmdline() and command in p.cmdline()[0]]


def program(*arguments: object) -> AbstractContextManager[subprocess.Popen[str]]:
    """One that starts a Ray of its own, which is gone with it."""
    environment = {key: value for key, value in os.environ.items() if key != "FARM_URL"}
    environment["RAY_ADDRESS"] = "local"
    return running([sys.executable, *arguments], environment)


WAITS = """
import asyncio, json, sys, threading, time
import farm
from farm.workers.lifeline import lifeline
from farm.client.proxy import FarmProxy
from farm.client.ray_link import RayLink
from farm.settings import load_settings
picture, tiny = sys.argv[1:]
job = farm.submit(picture, model=tiny, num_inference_steps=1000, width=512, height=512)
link = FarmProxy(RayLink(load_settings(), lifeline(), 600.0))
waits = {
    "wait": lambda: job.wait(progress=False),
    "as_completed": lambda: list(farm.as_completed([job])),
    "events": lambda: list(job.events()),
    "cancel": lambda: [time.sleep(5), job.cancel()],
    "frames": lambda: [time.sleep(5), job.frames()],
    "async": lambda: asyncio.run(link.watch([job.id], 2**60, 1e6)),
}
ended = {}
def go(name):
    try:
        waits[name]()
    except Exception as error:
        ended[name] = f"{type(error).__name__} {error}"
threads = [threading.Thread(target=go, args=[name]) for name in waits]
for thread in threads: thread.start()
print("waiting", flush=True)
for thread in threads: thread.join()
print("ended", json.dumps(ended), flush=True)
print("again", farm.submit(picture, model=tiny).status, flush=True)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_every_wait_ends_where_the_node_dies(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And another farm, on the same store, takes the next job."""
    (tmp_path / "a.png").write_bytes(picture_bytes())
    monkeypatch.setenv("FARM_STORE", str(tmp_path / "store"))
    with program("-c", WAITS, tmp_path / "a.png", tiny) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any(line == "waiting\n" for line in lines)
        (raylet,) = children_of(process, NODE["raylet"])
        raylet.kill()
        began = time.monotonic()
        ended_line = next(line for line in lines if line.startswith("ended "))  # Ray's go between
        assert time.monotonic() - began < SOON_S
        ended = json.loads(ended_line.removeprefix("ended "))
        assert set(ended) == {"wait", "as_completed", "events", "cancel", "frames", "async"}
        for error in ended.values():
            assert error.startswith("ClusterLostError this machine's Ray node is dead"), ended
        assert "again queued\n" in lines


@pytest.mark.ray
@pytest.mark.parametrize(
    "part",
    [
        "raylet",
        pytest.param("gcs", marks=pytest.mark.slow),
        pytest.param("agent", marks=pytest.mark.slow),
    ],
)
def test_a_batch_whose_node_dies_says_what_is_done(part: str, tiny: Path, tmp_path: Path) -> None:
    for seed in range(2):
        (tmp_path / "in").mkdir(exist_ok=True)
        draw_picture(90, 60, seed=seed).save(tmp_path / "in" / f"{seed}.png")
    options = ["--width=64", "--height=48", "--num-frames=5", "--seeds=0-49", f"--model={tiny}"]
    folders = [tmp_path / "in", f"--out={tmp_path / 'out'}", f"--store={tmp_path / 'store'}"]
    with program("-m", "farm.batch", *folders, "--num-inference-steps=2", *options) as process:
        assert process.stdout is not None
        assert any("[2/100]" in line for line in process.stdout)
        children_of(process, NODE[part])[0].send_signal(signal.SIGKILL)
        began = time.monotonic()
        messages = [line for line in process.stdout if line.startswith("python -m farm.batch: ")]
        assert process.wait() == 1
        assert time.monotonic() - began < SOON_S
    done = len(list((tmp_path / "out").glob("*.mp4")))
    assert 2 <= done < 100
    assert len(messages) == 1
    assert messages[0].endswith(f"; run it again: {done} of 100 clips are done\n")
