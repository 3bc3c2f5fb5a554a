"""Several programs with one store on real Ray: the second joins the first's farm or fails."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from farm.ownership.lease import TAKE_S, owner_of
from farm.ownership.owner import Owner
from farm.store import open_store
from farm.store.keys import LEASE
from tests.support.farm_jobs import picture_bytes
from tests.support.programs import ROOT, kill_family, running

SERVE = Path(sys.executable).parent / "serve"
PORT = 8000  # where `serve run` listens, and nowhere else

SUBMITS = """
import sys, time, farm
picture, model, steps, then = sys.argv[1:]
job = farm.submit(
    picture, model=model, width=64, height=48, num_frames=3, num_inference_steps=int(steps)
)
print(job.id, flush=True)
if "waits" in then:
    job.wait(progress=False)
    print("done", flush=True)
if "stays" in then:
    time.sleep(600)
"""


@pytest.fixture
def files(tiny: Path, tmp_path: Path) -> list[Path]:
    picture = tmp_path / "a.png"
    picture.write_bytes(picture_bytes())
    return [picture, tiny]


def program(
    store: Path, address: str, *command: object
) -> AbstractContextManager[subprocess.Popen[str]]:
    """One that runs beside this; whatever it has started ends with it.

    address: RAY_ADDRESS; empty for none.
    """
    unwanted = {"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "FARM_URL", "FARM_API_KEY"}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    home = store.parent / "home"  # as a newcomer's: Ray makes a token there
    home.mkdir(exist_ok=True)
    environment |= {"FARM_STORE": str(store), "PYTHONPATH": str(ROOT), "HOME": str(home)}
    environment |= {"RAY_ADDRESS": address} if address else {}
    return running(command, environment)


def submits(
    store: Path, address: str, files: list[Path], steps: int, then: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    return program(store, address, sys.executable, "-c", SUBMITS, *files, steps, then)


def next_line(process: subprocess.Popen[str]) -> str:
    """Its next line, warnings of Ray's left out."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        if line.startswith(("job-", "done")):
            return line.strip()
        lines.append(line)
    raise AssertionError("".join(lines))


def owner(store: Path) -> Owner:
    stored = open_store(str(store)).get(LEASE)
    found = owner_of(stored.data) if stored else None
    assert found is not None
    return found


def jobs_of(store: Path) -> set[str]:
    return {path.stem for path in (store / "jobs").iterdir()}


@pytest.mark.ray
@pytest.mark.slow
def test_a_second_program_joins_the_first_ones_farm_and_a_second_farm_is_refused(
    files: list[Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with ExitStack() as stack:
        first = stack.enter_context(submits(store, "local", files, 40, "stays"))
        first_job = next_line(first)
        with submits(store, "", files, 2, "leaves") as second:
            second_job = next_line(second)
            assert second.wait(timeout=60) == 0
        assert jobs_of(store) == {first_job, second_job}
        before = owner(store)
        assert before.pid in [p.pid for p in psutil.Process(first.pid).children(recursive=True)]
        with submits(store, "local", files, 2, "leaves") as third:
            output, _ = third.communicate(timeout=120)
            assert third.returncode != 0
        assert f"belongs to another farm: process {before.pid} on {before.host}" in output
        assert owner(store) == before
        assert jobs_of(store) == {first_job, second_job}
        assert (store / "coordinator.json").read_text() == "1"
        kill_family(first)
    # The dead owner is replaced at once; what both had asked for is still there.
    with submits(store, "local", files, 2, "waits") as fourth:
        next_line(fourth)
        assert next_line(fourth) == "done"
        assert owner(store).pid != before.pid
        assert (store / "coordinator.json").read_text() == "2"
        assert {first_job, second_job} < jobs_of(store)


@pytest.mark.ray
@pytest.mark.slow
def test_programs_that_start_at_the_same_time_share_a_farm(
    files: list[Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with submits(store, "", files, 2, "stays") as first:
        time.sleep(3)  # it is starting its Ray
        with submits(store, "", files, 2, "stays") as second:
            asked = {next_line(first), next_line(second)}
            assert jobs_of(store) == asked
        assert (store / "coordinator.json").read_text() == "1"


@pytest.mark.ray
@pytest.mark.slow
def test_a_paused_farm_that_another_replaced_commits_nothing(
    files: list[Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with submits(store, "local", files, 40, "stays") as first:
        next_line(first)
        coordinator = psutil.Process(owner(store).pid)
        coordinator.send_signal(signal.SIGSTOP)
        time.sleep(TAKE_S)
        with submits(store, "local", files, 2, "waits, stays") as second:
            next_line(second)
            assert next_line(second) == "done"
            mine = owner(store)
            assert mine.pid != coordinator.pid
            coordinator.send_signal(signal.SIGCONT)
            coordinator.wait(timeout=60)  # it hears of it, and ends
            time.sleep(6)  # Ray starts another, which waits for its turn
            assert owner(store) == mine
            assert (store / "coordinator.json").read_text() == "2"


@pytest.mark.ray
@pytest.mark.slow
def test_the_page_shows_what_a_script_in_another_terminal_asked_for(
    files: list[Path], tmp_path: Path
) -> None:
    """The README's quick start: `make serve` in one terminal, Python in another."""
    store = tmp_path / "store"
    serve = SERVE, "run", "farm.ingress.serve_app:app"
    with program(store, "", *serve) as serving:
        base = f"http://127.0.0.1:{PORT}"
        for _ in range(300):
            assert serving.poll() is None, serving.communicate()[0]
            with suppress(httpx2.HTTPError):
                if httpx2.get(f"{base}/healthz").status_code == 200:
                    break
            time.sleep(0.2)
        with submits(store, "", files, 2, "waits") as script:
            job = next_line(script)
            assert next_line(script) == "done"
        assert job in [video["id"] for video in httpx2.get(f"{base}/v1/videos").json()["data"]]
        with program(store, "", *serve) as again:
            output, _ = again.communicate(timeout=60)
        assert again.returncode != 0
        assert f"port {PORT} of this machine is in use" in output


def test_serve_run_on_a_used_port_says_so(tmp_path: Path) -> None:
    with socket.socket() as used:
        used.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # somebody else uses it: as good
            used.bind(("127.0.0.1", PORT))
            used.listen()
        serve = SERVE, "run", "farm.ingress.serve_app:app"
        with program(tmp_path / "store", "", *serve) as process:
            output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"port {PORT} of this machine is in use" in output
    assert not (tmp_path / "store").exists()
