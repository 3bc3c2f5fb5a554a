"""Starts a Ray cluster on this machine that outlives the program which starts it."""

import socket
import subprocess
import sys
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)

from farm.errors import WorkerError
from farm.settings import ray_address, ray_environment, set_ray_address
from farm.workers.cluster import quiet_ray, running_cluster

START_S = 180.0  # how long Ray may take to start
_RAY = (sys.executable, "-m", "ray.scripts.scripts")


def ends_with_this_process() -> bool:
    """Whether this process has started its cluster, which therefore ends with it."""
    node: Any = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


def ensure_lasting_cluster() -> bool:
    """Start a cluster that outlives this process, unless one is running; returns whether it did.

    The cluster accepts connections only from this machine, and asks for Ray's token. Raises
    WorkerError if it does not start.
    """
    address = ray_address()
    if (address and address != "local") or (not address and running_cluster()):
        return False
    port = _free_port()
    _ray("get-auth-token", "--generate")  # in Ray's own file; an existing one is kept
    _ray(
        *("start", "--head", "--node-ip-address", "127.0.0.1", "--port", str(port)),
        *("--include-dashboard", "false", "--disable-usage-stats"),
    )
    set_ray_address(f"127.0.0.1:{port}")
    quiet_ray()
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return True


def _ray(*arguments: str) -> None:
    """Run Ray's command line in a session of its own, so that Ctrl-C does not end the cluster."""
    try:
        done = subprocess.run(
            [*_RAY, *arguments],
            env=ray_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"ray {arguments[0]} did not end within {START_S:g} s") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise WorkerError(f"ray {arguments[0]} failed: {lines[-1] if lines else done.returncode}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
