"""Runs a check's program in a process of its own, since what it loads can hang, or kill it."""

import json
import subprocess
import sys
from typing import Any


class ProbeError(Exception):
    """A program has failed. The argument is the last line that it wrote."""


def run_probe(module: str, *arguments: str, limit_s: float) -> Any:
    """What a program prints as JSON. Raises ProbeError, or TimeoutExpired after `limit_s`."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ProbeError(lines[-1])
    return json.loads(done.stdout)
