"""The doctor's checks of the installation, the GPUs, Ray, ports, models and the hub."""

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from farm.doctor import gpu, installation, machine, models, ray_cluster
from farm.doctor.check import Finding, Status
from farm.doctor.gpu import Gpu, Torch, judge
from svd_engine.checkpoint import open_checkpoint
from tests.support.doctoring import finding, findings
from tests.support.programs import ROOT

CARD = Gpu("NVIDIA H100", "550.54", 81559, 3)
CUDA = Torch(
    version="2.13.0",
    cuda="12.8",
    usable=True,
    why="",
    built_for=["sm_80", "sm_90", "compute_90"],
    capabilities=[(9, 0)],
)


def test_versions_that_are_missing_or_others(monkeypatch: pytest.MonkeyPatch) -> None:
    right = metadata.version
    torch = right("torch").partition("+")[0]
    others = {"ray": "2.10.0", "numpy": "2.3.9", "torch": f"{torch}+cu999"}

    def wrong(name: str) -> str:
        if name == "tenacity":
            raise metadata.PackageNotFoundError(name)
        return others.get(name, right(name))

    monkeypatch.setattr(metadata, "version", wrong)
    missing, outside, other = findings(installation.packages)
    assert missing.text == "These packages are missing: tenacity."
    assert outside.text == "ray is 2.10.0, and must be ray<3,>=2.60."
    assert (missing.status, outside.status) == (Status.FAILED, Status.FAILED)
    assert other.status == Status.WARNING
    assert "numpy is 2.3.9, and" in other.text
    assert "torch" not in other.text  # a build for CUDA is the same version


def test_an_ffmpeg_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert finding(installation.ffmpeg).status == Status.OK
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    found = finding(installation.ffmpeg)
    assert found.status == Status.FAILED
    assert "Unset IMAGEIO_FFMPEG_EXE" in found.advice


def test_what_is_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    for check, limit in (
        (machine.memory, "MEMORY_GB"),
        (machine.disk, "DISK_GB"),
        (machine.shared_memory, "OBJECTS"),
    ):
        monkeypatch.setattr(machine, limit, 1e-9)
        assert {each.status for each in findings(check)} == {Status.OK}
        monkeypatch.setattr(machine, limit, 1e9)
        assert {each.status for each in findings(check)} == {Status.WARNING}


GPUS: dict[str, tuple[list[Gpu], dict[str, Any], str, str]] = {
    "all fits": ([CARD], {}, "ok", "fits the driver 550.54"),
    "no GPU": ([], {"usable": False, "capabilities": []}, "ok", "compute on the CPU"),
    "CPU build": ([CARD], {"cuda": None, "usable": False}, "failed", "a build without CUDA"),
    "old driver": ([CARD], {"usable": False, "why": "too old"}, "failed", "550.54: too old"),
    "old GPU": ([CARD], {"capabilities": [(9, 0), (7, 0)]}, "failed", "capability 7.0"),
    "newer GPU of a major version": ([CARD], {"capabilities": [(8, 9)]}, "ok", "fits"),
    "newer GPU, compiled by the driver": ([CARD], {"capabilities": [(12, 0)]}, "ok", "fits"),
    "newer GPU, nothing to compile": (
        [CARD],
        {"capabilities": [(12, 0)], "built_for": ["sm_90"]},
        "failed",
        "capability 12.0",
    ),
}


@pytest.mark.parametrize("case", GPUS)
def test_whether_gpus_driver_and_torch_fit(case: str) -> None:
    cards, changes, status, words = GPUS[case]
    found = [*judge(cards, CUDA.model_copy(update=changes))][-1]
    assert found.status == status
    assert words in found.text


def test_a_gpu_that_is_in_use() -> None:
    busy = next(judge([CARD._replace(used=70000)], CUDA))
    assert busy.status == Status.WARNING
    assert "70000 MiB are in use" in busy.text


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'NVIDIA GB10, 580.95, [N/A], [N/A]'", "has 0 MiB"),
        ("echo 'Driver/library version mismatch'; exit 18", "does not answer: Driver/library"),
        ("sleep 20", "does not answer"),
    ],
)
def test_the_driver(script: str, words: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = place / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    monkeypatch.setattr(gpu, "SMI_S", 0.5)
    assert words in findings(gpu.gpus)[0].text


def test_models(tiny: Path, place: Path) -> None:
    whole = finding(models.models, models=("nano",))
    assert whole.status == Status.OK
    assert open_checkpoint("nano").digest[:16] in whole.text
    broken = place / "broken"
    shutil.copytree(tiny, broken)
    weights = broken / "unet/diffusion_pytorch_model.safetensors"
    weights.unlink()
    for name, words in (
        (str(broken), "has no diffusion_pytorch_model.safetensors"),
        (str(place), "is not a model itself, but contains one"),
        ("nanoo", "There is no model 'nanoo'."),
        (str(place / "gone"), "There is no model"),
    ):
        found = finding(models.models, models=(name,))
        assert found.status == Status.FAILED, name
        assert words in found.text


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does to who may read a model: by its name."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.split("/")[4]
        if name == "slow":
            threading.Event().wait(20)
        fault = {"gated": (403, "GatedRepo"), "none": (401, "RepoNotFound"), "down": (500, "")}
        status, code = fault.get(name, (200, ""))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ASK = """
import json, sys
from farm.doctor import models
from tests.support.doctoring import findings
names = json.loads(sys.argv[1])
given = {"models": tuple(names)} if names else {}
for found in findings(models.licences, limit_s=float(sys.argv[2]), **given):
    print(json.dumps([found.status, found.text, found.advice]))
"""


def licences(
    place: Path, names: list[str], environment: dict[str, str], limit_s: float = 20
) -> list[Finding]:
    """In a process of its own, since the hub's client reads the environment when it is loaded."""
    own = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(place)}
    own |= {"HF_TOKEN": "hf_ofthetest", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(names), str(limit_s)],
        env=own | environment,
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "hf_ofthetest" not in done.stdout
    return [Finding(*json.loads(line)) for line in done.stdout.splitlines()]


def test_what_the_hub_says_of_licences(place: Path) -> None:
    with served(Hub) as port:
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{port}"}
        names = ["nano", "some/open", "some/gated", "some/none", "some/down"]
        given, gated, none, down = licences(place, names, hub)
        assert given.status == "ok"
        assert gated.status == "failed"
        assert "some/gated to this machine, which has HF_TOKEN" in gated.text
        assert "Accept the licence at https://huggingface.co/some/gated" in gated.advice
        assert none.status == "failed"
        assert "The hub knows no some/none" in none.text
        assert down.status == "not checked"
        (late,) = licences(place, ["some/slow"], hub, 1.5)
        assert late.text == "The check did not end within 1.5 s."
        without = licences(place, ["some/gated"], hub | {"HF_TOKEN": ""})[0]
        assert "which has no token (set HF_TOKEN" in without.text
    unreachable = licences(place, [], hub)
    assert {each.status for each in unreachable} == {"not checked"}
    assert len(unreachable) == 3  # those that are offered by default
    offline = licences(place, [], {"HF_HUB_OFFLINE": "1"})
    assert all("HF_HUB_OFFLINE is set" in each.text for each in offline)
    assert licences(place, ["nano", "tiny"], {})[0].status == "ok"


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}')

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = taken.getsockname()[1]
        monkeypatch.setattr(ray_cluster, "HTTP_PORT", free)
        monkeypatch.setattr(ray_cluster, "RAY_PORT", free)
        assert [each.status for each in findings(ray_cluster.ports)] == ["ok", "ok"]
        taken.listen()
        monkeypatch.setattr(ray_cluster, "CONNECT_S", 0.3)
        http, cluster = findings(ray_cluster.ports)
        assert (http.status, cluster.status) == ("failed", "warning")
        assert f"--http-port {free + 1}" in http.advice
        assert f"--port {free + 1}" in cluster.advice
    with served(Healthy) as port:
        monkeypatch.setattr(ray_cluster, "HTTP_PORT", port)
        assert "A farm's HTTP server answers" in findings(ray_cluster.ports)[0].text


def test_no_cluster_and_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No Ray cluster runs here" in finding(ray_cluster.ray).text
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        found = finding(ray_cluster.ray)
    assert found.status == Status.FAILED
    assert "cannot be joined: nobody listens there" in found.text
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "RAY_AUTH_MODE is 'disabled'" in finding(ray_cluster.token).text


def test_a_cluster_that_runs(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from farm.doctor import ray_cluster as checks

    address: Any = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_ADDRESS", address)
    found = finding(checks.ray)
    assert found.status == Status.OK, found
    assert "1 nodes with 0 GPUs and 2 CPUs, and no farm runs in it yet" in found.text
    assert finding(checks.token).text == "Ray asks for a token."
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    wrong = finding(checks.ray)
    assert wrong.status == Status.FAILED
    assert "the same token" in wrong.advice
