"""`--detach` as a user runs it: the farm continues without the batch, and later has the clips."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from farm.errors import WorkerError
from tests.conftest import draw_picture

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SMALL = ("--width=64", "--height=48", "--num-frames=5", "--steps=40")
PATIENCE_S = 240.0  # generous: a start, and two clips


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user's who has set nothing about Ray; whatever Ray has started ends with the test."""
    # A socket's path holds 107 characters, so not pytest's own folder.
    ray = Path("/tmp") / f"ray-{os.getpid()}"
    unset = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "FARM_STORE", "FARM_URL")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    mine = {"HOME": str(tmp_path), "RAY_TMPDIR": str(ray)}
    yield kept | mine
    for process in started_by_ray(str(ray)):
        process.kill()


def started_by_ray(folder: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == folder and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def python(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )


def test_the_farm_goes_on_without_the_program(environment: dict[str, str], tmp_path: Path) -> None:
    folder, store = tmp_path / "in", ("--store", tmp_path / "store")
    folder.mkdir()
    for name in "ab":
        draw_picture(90, 60, ord(name)).save(folder / f"{name}.png")
    batch = ("-m", "farm.batch", folder, "--out", tmp_path / "out", *store, "--model=tiny", *SMALL)
    handed = python(environment, *batch, "--detach")
    assert handed.returncode == 0, handed.stderr
    assert "2 clips submitted, 0 done already; the farm keeps running" in handed.stdout
    assert "`ray stop` ends it" in handed.stderr
    assert not list((tmp_path / "out").glob("*.mp4"))

    looked = python(environment, "-m", "farm", *store, "status")
    assert looked.returncode == 0, looked.stderr
    assert "renderer-0" in looked.stdout
    own = started_by_ray(environment["RAY_TMPDIR"])
    listening = [c.laddr.ip for p in own for c in p.net_connections() if c.status == "LISTEN"]
    assert listening
    # The farm's workers are in other networks for no one: each listens at this machine alone.
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert (tmp_path / ".ray/auth_token").exists()

    until = time.monotonic() + PATIENCE_S
    while "no open jobs" not in python(environment, "-m", "farm", *store, "status").stdout:
        assert time.monotonic() < until
    again = python(environment, *batch)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 clips are done" in again.stdout
    shown = python(environment, "-m", "farm", *store, "status")
    assert "renderer-0" in shown.stdout  # it is still there


def test_ray_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from farm.workers import detached

    monkeypatch.setattr(detached, "_RAY", (sys.executable, "-c", "import sys; sys.exit('no disk')"))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(WorkerError, match="ray get-auth-token failed: no disk"):
        detached.ensure_lasting_cluster()
