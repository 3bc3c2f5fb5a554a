"""Checks of Ray: a cluster that can be joined, its token, and the ports that it and Serve use."""

import json
import subprocess
import urllib.request
from typing import Any

from farm.doctor.check import Context, Findings, failed, ok, warning
from farm.doctor.probe import ProbeError, run_probe
from farm.settings import ray_environment

JOIN_S = 60.0  # for a process to load Ray and join
HTTP_PORT = 8000  # where Serve listens
RAY_PORT = 6379  # where `ray start --head` listens by default
CONNECT_S = 2.0
ASK = (
    "Set RAY_AUTH_MODE=token for ray start on every node and for everything that joins it; "
    "`ray get-auth-token --generate` makes a token, which every node must have."
)


def ray(_context: Context) -> Findings:
    """Whether the cluster of this machine, or of RAY_ADDRESS, can be joined."""
    address = _cluster()
    if not address:
        yield ok("No Ray cluster runs here. A batch, or serve run, starts one of its own.")
        return
    seen = _join(address)
    if isinstance(seen, str):
        yield failed(
            f"The Ray cluster at {address} cannot be joined: {seen}.",
            "Start it, or unset RAY_ADDRESS. All nodes need the same versions of Python and Ray, "
            "and the same token.",
        )
        return
    if seen["dead"]:
        yield warning(
            f"{seen['dead']} nodes of the Ray cluster at {address} are dead.",
            "If they should be there, start Ray on them again.",
        )
    farm = "a farm runs in it" if seen["farm"] else "no farm runs in it yet"
    yield ok(
        f"The Ray cluster at {address} can be joined: {seen['nodes']} nodes with "
        f"{seen['gpus']:g} GPUs and {seen['cpus']:g} CPUs, and {farm}."
    )


def token(_context: Context) -> Findings:
    """Whether Ray asks for a token, without which it runs any code for anybody."""
    from farm.errors import RequestError
    from farm.workers.cluster import check_token

    mode = ray_environment()["RAY_AUTH_MODE"]
    if mode != "token":
        yield failed(f"RAY_AUTH_MODE is {mode!r}, so Ray asks for no token.", ASK)
        return
    address = _cluster()  # which turns the token on as joining would
    try:
        check_token()
    except RequestError as error:
        if not address:
            yield ok("No Ray cluster runs here, and one that the farm starts asks for a token.")
        else:
            yield failed(f"{str(error).partition(':')[0]}.", ASK)
        return
    yield ok("Ray asks for a token.")


def ports(_context: Context) -> Findings:
    """Whether the ports that a farm listens at are free, or its own."""
    if not _listens(HTTP_PORT):
        yield ok(f"Port {HTTP_PORT} is free for the HTTP server.")
    elif _is_a_farm():
        yield ok(f"A farm's HTTP server answers at port {HTTP_PORT}.")
    else:
        yield failed(
            f"Another program listens at port {HTTP_PORT}, where the HTTP server would.",
            f"End it, or start Serve elsewhere: serve start --http-port {HTTP_PORT + 1}.",
        )
    if not _listens(RAY_PORT):
        yield ok(f"Port {RAY_PORT} is free for ray start --head.")
    elif _cluster().endswith(f":{RAY_PORT}"):
        yield ok(f"A Ray cluster listens at port {RAY_PORT}.")
    else:
        yield warning(
            f"Another program listens at port {RAY_PORT}, perhaps Redis.",
            f"Start Ray at another port: ray start --head --port {RAY_PORT + 1}.",
        )


def _cluster() -> str:
    """The address of the cluster that a command would join; empty if there is none."""
    from farm.workers.cluster import cluster_address

    address = cluster_address()
    return "" if address == "local" else address


def _join(address: str) -> dict[str, Any] | str:
    """What `ray_probe` sees in a cluster, or why it cannot join it."""
    from farm.workers.cluster import may_be_joined

    if not may_be_joined(address):  # Ray would try for minutes
        return "nobody listens there"
    try:
        seen: dict[str, Any] = run_probe("farm.doctor.ray_probe", address, limit_s=JOIN_S)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {JOIN_S:g} s"
    except ProbeError as error:
        return str(error)
    return seen


def _listens(port: int) -> bool:
    from farm.workers.cluster import answers

    return answers(f"127.0.0.1:{port}")


def _is_a_farm() -> bool:
    url = f"http://127.0.0.1:{HTTP_PORT}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_S) as answer:
            return json.load(answer) == {"status": "ok"}
    except (OSError, ValueError):
        return False
