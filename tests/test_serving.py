"""`python -m farm serve`, with a program in the place of Ray Serve."""

import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from farm import __main__ as operator
from farm import serving
from tests.support.ports import free_ports
from tests.support.programs import ROOT, kill_family, running

# In the place of Ray Serve: as noisy, and ready at the third question.
NOISY = """
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
print("INFO noise from Ray", os.environ.get("FARM_STORE"), flush=True)
mode = sys.argv[2]
if mode == "fails":
    sys.exit("ValueError: the reason")
class Answers(BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Answers.asked += 1
        ready = Answers.asked > 2 and mode != "waits"
        body = json.dumps({"status": "no worker yet", "why": "there is no GPU"}).encode()
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(body)
def end(*_):
    print("ended cleanly", flush=True)
    os._exit(0)
signal.signal(signal.SIGINT, end)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""
RUN = """
import sys
from farm import serving
from farm.__main__ import main
serving.PORT = int(sys.argv[1])
serving.PATIENCE_S = 0.2 if sys.argv[3] == "waits" else 60.0
serving.SERVE = (sys.executable, "-c", sys.argv[2], *sys.argv[1:2], sys.argv[3])
sys.exit(main(["serve", "--store", sys.argv[4]]))
"""


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def started(port: int, mode: str, folder: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """The command, which is killed with its server at the end."""
    unwanted = {name for name in os.environ if name.startswith(("FARM_", "RAY_"))}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    command = [sys.executable, "-c", RUN, port, NOISY, mode, folder / "store"]
    return running(command, environment | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serving_says_where_to_look_and_ends_cleanly(
    ends: signal.Signals, port: int, tmp_path: Path
) -> None:
    with started(port, "works", tmp_path) as program:
        assert program.stdout is not None
        first, opened = program.stdout.readline(), program.stdout.readline()
        (log,) = tmp_path.glob("farm-serve-*.log")
        assert str(log) in first
        assert opened == f"Open http://127.0.0.1:{port} (Ctrl-C ends the farm)\n"
        (server,) = psutil.Process(program.pid).children()
        program.send_signal(ends)
        rest = program.stdout.read()
        assert program.wait(30) == 0
        assert rest.strip().startswith("Ending the farm.")
        assert not server.is_running()
        lines = log.read_text().splitlines()
        assert lines[0] == f"INFO noise from Ray {tmp_path / 'store'}"
        assert lines[-1] == "ended cleanly"


def test_what_fails_is_said_with_the_log(port: int, tmp_path: Path) -> None:
    with started(port, "fails", tmp_path) as program:
        output, _ = program.communicate(timeout=60)
    assert program.returncode == 1
    (log,) = tmp_path.glob("farm-serve-*.log")
    assert f"error: the farm ended with status 1; see {log}: " in output
    assert "ValueError: the reason" in output
    assert "Open" not in output


def test_a_wait_is_explained(port: int, tmp_path: Path) -> None:
    with started(port, "waits", tmp_path) as program:
        assert program.stdout is not None
        program.stdout.readline()
        assert program.stdout.readline() == "Not ready yet: no worker yet: there is no GPU\n"


def test_a_port_in_use_is_said_before_anything_is_started(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(serving, "PORT", port)
        while not serving._answers():
            time.sleep(0.05)
        assert operator.main(["serve", "--store", str(tmp_path / "store")]) == 1
        captured = capsys.readouterr()
        assert f"port {port} of this machine is in use" in captured.err
        assert captured.out == ""
    finally:
        kill_family(other)


def test_a_mistake_in_the_settings_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FARM_STROE", "x")
    assert operator.main(["serve"]) == 2
    assert "Did you mean 'FARM_STORE'?" in capsys.readouterr().err
