"""`python -m farm serve`: serve the farm over HTTP, and tell a person only what matters.

Ray Serve runs in a process of its own, as by `serve run farm.ingress.serve_app:app`. What it and
Ray write goes to a file.
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farm.errors import WorkerError
from farm.settings import load_settings, ray_address
from farm.settings.environment import environment

PORT = 8000  # where Serve listens unless its cluster says otherwise
SERVE = (sys.executable, "-m", "ray.serve.scripts", "run", "farm.ingress.serve_app:app")
LOOK_EVERY_S = 0.5
ANSWER_S = 10.0  # how long a probe may take
PATIENCE_S = 15.0  # after which it is said why the farm is not ready
END_S = 60.0  # how long Serve may take to end
LAST_LINES = 3  # of the log that are shown if Serve ends by itself


def serve(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C. Returns 0 once it has ended cleanly; raises WorkerError if it fails."""
    load_settings(store=options.store)  # what is wrong with the settings is said at once
    if not ray_address() and _answers():
        raise WorkerError(
            f"port {PORT} of this machine is in use, perhaps by another `farm serve`: stop that "
            "one, or use it"
        )
    variables = environment() | ({"FARM_STORE": options.store} if options.store else {})
    with _log_file() as log, _until_interrupted():
        _say(f"Starting the farm. Its log and Ray's: {log.name}")
        process = subprocess.Popen(
            SERVE,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,  # Ctrl-C is passed on once, and not by the terminal, too
        )
        try:
            _wait_until_ready(process, Path(log.name))
            _say(f"Open http://127.0.0.1:{PORT} (Ctrl-C ends the farm)")
            process.wait()
        except KeyboardInterrupt:
            _say(
                "\nEnding the farm. Its jobs stay in its store, and go on when it is started again."
            )
            _end(process)
            return 0
        finally:
            _end(process)
    raise WorkerError(_why(process, Path(log.name)))


@contextmanager
def _log_file() -> Iterator[Any]:
    with tempfile.NamedTemporaryFile(
        "wb", prefix="farm-serve-", suffix=".log", delete=False
    ) as log:
        yield log


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Treat a request to end, and the end of the terminal, like Ctrl-C."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, signal.default_int_handler) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when `/readyz` says so. Raises WorkerError if the process ends before."""
    began, said = time.monotonic(), ""
    while True:
        if process.poll() is not None:
            raise WorkerError(_why(process, log))
        ready, why = _probe()
        if ready:
            return
        if why not in ("", said) and time.monotonic() - began > PATIENCE_S:
            _say(f"Not ready yet: {why}")
            said = why
        time.sleep(LOOK_EVERY_S)


def _probe() -> tuple[bool, str]:
    """Whether the farm is ready, and if it answers that it is not, the reason."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=ANSWER_S).close()
        return True, ""
    except urllib.error.HTTPError as error:
        try:
            answer = json.load(error)
            why = answer.get("why")  # without a reason it only starts
            return False, f"{answer.get('status')}: {why}" if why else ""
        except (ValueError, AttributeError):
            return False, ""
    except OSError:
        return False, ""


def _answers() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=ANSWER_S):
            return True
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have Serve end its applications and its Ray; a second Ctrl-C kills it."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def _why(process: subprocess.Popen[bytes], log: Path) -> str:
    """Why Serve has ended by itself, from the end of its log."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = " / ".join(lines[-LAST_LINES:])
    return f"the farm ended with status {process.returncode}; see {log}: {last}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
