"""The image and the compose files: what they say is checked, without Docker."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.deploy.docker_files import ROOT, SECRETS, START, faults, texts

COMPOSE, IMAGE = "deploy/docker-compose.yml", "deploy/Dockerfile"


def test_there_is_no_fault(pytestconfig: pytest.Config) -> None:
    assert list(faults(texts(), pytestconfig)) == []


BROKEN = [
    (IMAGE, "COPY LICENSE", "COPY LICENCE", "there is no LICENCE"),
    (IMAGE, "COPY deploy/constraints.txt", "COPY Makefile", "leaves Makefile out"),
    (IMAGE, ".[farm]", ".[farms]", "there is no extra 'farms'"),
    (IMAGE, "FARM_STORE=", "FARM_STORES=", "no setting FARM_STORES"),
    (IMAGE, "RAY_AUTH_MODE=", "RAY_AUTH_MODUS=", "nothing reads RAY_AUTH_MODUS"),
    (IMAGE, "/readyz", "/ready", "the server has no /ready"),
    (IMAGE, "127.0.0.1:8000", "127.0.0.1:8001", "does not ask at 8000"),
    (IMAGE, "USER 1000\n", "", "runs as root"),
    (IMAGE, "docker/start.sh", "docker/run.sh", "it starts"),
    (START, "--disable-usage-stats", "--no-usage-stats", "No such option"),
    (START, "deploy/serve.yaml", "--yaml deploy/serve.yaml", "No such option"),
    (START, "port 8080", "port 8081", "listens at ['8000', '8081']"),
    (IMAGE, "EXPOSE 8000 8080", "EXPOSE 8000", "it exposes ['8000']"),
    (IMAGE, "FROM cpu AS gpu", "FROM cpu AS cuda", "has no gpu"),
    (".dockerignore", "!farm/\n", "", "leaves farm/__init__.py out"),
    (".dockerignore", "!LICENSE", "!COPYING", "there is no COPYING"),
    (COMPOSE, "FARM_KEYS_FILE:", "FARM_KEY_FILE:", "no setting FARM_KEY_FILE"),
    (COMPOSE, "secrets: [keys]", "secrets: []", "of a secret that it does not have"),
    (COMPOSE, "./docker/Caddyfile", "./docker/caddyfile", "there is no ./docker/caddyfile"),
    (COMPOSE, "cache:/cache", "caches:/cache", "there is no caches"),
    (COMPOSE, "s3: {condition", "store: {condition", "there is no service store"),
    (COMPOSE, "healthcheck:", "x-check:", "s3 is never healthy"),
    (COMPOSE, "http://s3:8333", "http://s3:9000", "nobody listens at s3:9000"),
    (COMPOSE, "-webdav=false", "-web=false", "weed mini has no -web=false"),
    (COMPOSE, "docker/s3.env", "docker/aws.env", "no file docker/aws.env"),
    ("deploy/serve.yaml", "port: 8000", "port: 9000", "nobody listens at farm:8000"),
    ("deploy/docker/Caddyfile", "farm:8000", "farms:8000", "nobody listens at farms:8000"),
    ("deploy/docker/prometheus.yaml", "farm:8080", "farm:8081", "nobody listens at farm:8081"),
    ("deploy/docker-compose.gpu.yml", "target: gpu", "target: rocm", "has no rocm"),
]


@pytest.mark.parametrize(("name", "old", "new", "fault"), BROKEN)
def test_what_is_broken_is_named(
    name: str, old: str, new: str, fault: str, pytestconfig: pytest.Config
) -> None:
    files = texts()
    assert old in files[name]
    files[name] = files[name].replace(old, new)
    assert any(fault in found for found in faults(files, pytestconfig))


def test_secrets_are_in_no_commit_and_in_no_image() -> None:
    for path in SECRETS:
        done = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
        assert done.returncode == 0, path
    assert re.findall("deploy/docker.*", texts()[".dockerignore"]) == [START]


def test_the_start_script_is_a_program() -> None:
    assert os.access(ROOT / START, os.X_OK)
    assert subprocess.run(["sh", "-n", ROOT / START], check=False).returncode == 0


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sysconfig.get_path("scripts")) / "hadolint"
    return subprocess.run([program, file], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    done = hadolint(ROOT / IMAGE)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "Dockerfile"
    broken.write_text(texts()[IMAGE].replace("python:3.11-slim-bookworm", "python:latest"))
    assert "DL3007" in hadolint(broken).stdout


def test_caddy_takes_its_file() -> None:
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("Caddy is not installed: apt-get install caddy")
    file = str(ROOT / "deploy/docker/Caddyfile")
    command = [caddy, "validate", "--adapter", "caddyfile", "--config", file]
    done = subprocess.run(
        command, env={"DOMAIN": "farm.example"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
