"""The systemd units' own commands, on other ports, and the scripts of the pods beside them."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.batch.test_detach import started_by_ray
from tests.deploy.rendered import FOLDER
from tests.deploy.serving import serve_config
from tests.support.pages import ROOT
from tests.support.ports import free_ports
from tests.support.programs import running

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PATIENCE_S = 120.0
BIN = Path(sys.prefix) / "bin"


def command_of(unit: str) -> list[str]:
    """What a unit starts, with the programs of this environment."""
    text = (ROOT / f"deploy/systemd/{unit}.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, *words = shlex.split(line)
    return [str(BIN / Path(program).name), *words]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    keys = {hashlib.sha256(b"sesame").hexdigest(): {"tenant": "alice"}}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    folder = f"/tmp/box-{os.getpid()}"  # a socket's path holds 107 characters
    unset = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "FARM_URL")
    yield {name: value for name, value in os.environ.items() if name not in unset} | {
        "HOME": str(tmp_path),
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "token",
        "FARM_STORE": str(tmp_path / "store"),
        "FARM_KEYS_FILE": str(tmp_path / "keys.json"),
    }
    for process in started_by_ray(folder):
        process.kill()


def test_one_box_serves_and_is_drained(tmp_path: Path, environment: dict[str, str]) -> None:
    gcs, dashboard, agent, metrics, client, http = free_ports(6)
    ports = {"port": gcs, "dashboard-port": dashboard, "dashboard-agent-listen-port": agent}
    ports |= {"metrics-export-port": metrics, "ray-client-server-port": client}
    config = serve_config()
    config["http_options"]["port"] = http
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    start = command_of("svd-farm-ray") + [f"--{name}={port}" for name, port in ports.items()]
    deploy = [*command_of("svd-farm-serve")[:-1], str(tmp_path / "serve.yaml")]
    deploy += ["--address", f"http://127.0.0.1:{dashboard}"]
    run([str(BIN / "ray"), "get-auth-token", "--generate"], environment)
    with running(start, environment):
        wait_until(lambda: run(deploy, environment).returncode == 0)  # as systemd tries again
        url = f"http://127.0.0.1:{http}/readyz"
        wait_until(lambda: answer(url) == (200, {"status": "ok", "workers": 2}))
        probe = [sys.executable, str(FOLDER / "base/scripts/ready.py"), url]
        assert run(probe, environment).returncode == 0
        for path in (f"{dashboard}/api/gcs_healthz", f"{agent}/api/local_raylet_healthz"):
            assert httpx2.get(f"http://127.0.0.1:{path}").status_code == 200  # without a token
        assert httpx2.get(f"http://127.0.0.1:{dashboard}/api/version").status_code == 401
        inside = environment | {"RAY_ADDRESS": f"127.0.0.1:{gcs}"}
        status = run([sys.executable, "-m", "farm", "status"], inside).stdout
        (address,) = set(re.findall(r"(\d+\.\d+\.\d+\.\d+):\d+", status))
        hook = [sys.executable, str(FOLDER / "base/scripts/drain.py"), address, "60"]
        assert run(hook, inside).returncode == 0
        status = run([sys.executable, "-m", "farm", "status"], inside).stdout
        assert len(re.findall(r"-0 +drained ", status)) == 2, status


def run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def answer(url: str) -> tuple[int, object]:
    with suppress(httpx2.TransportError, ValueError):
        got = httpx2.get(url, timeout=10)
        return got.status_code, got.json()
    return 0, None


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(1)
