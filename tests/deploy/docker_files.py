"""What the Dockerfile, the compose files and what they mount say, checked against the project."""

import json
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from farm.ingress.app import make_app
from farm.model.farm_api import FarmApi
from farm.settings import Settings
from tests.deploy.environment import environment_faults
from tests.support.commands import CommandError, check_command

ROOT = Path(__file__).parents[2]
START = "deploy/docker/start.sh"
NAMES = (
    START,
    *(".dockerignore", "deploy/Dockerfile", "deploy/docker-compose.yml", "deploy/serve.yaml"),
    *("deploy/docker-compose.gpu.yml", "deploy/docker/Caddyfile", "deploy/docker/prometheus.yaml"),
    "deploy/docker/grafana/datasources.yaml",
)
SECRETS = {"deploy/docker/s3.env", "deploy/docker/keys.json", "deploy/docker/grafana-password"}
OF_IMAGES = {"PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK"}
OF_IMAGES |= {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
Texts = Mapping[str, str]


def texts() -> dict[str, str]:
    """The files as they are."""
    return {name: (ROOT / name).read_text() for name in NAMES}


def faults(files: Texts, config: pytest.Config) -> Iterator[str]:
    """What is wrong with them."""
    yield from _faults_of_image(files, config)
    yield from _faults_of_compose(files)
    yield from _faults_of_addresses(files)


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with its arguments."""
    code = "\n".join(line for line in dockerfile.splitlines() if not line.startswith("#"))
    lines = code.replace("\\\n", " ").splitlines()
    return [(w, rest) for w, _, rest in (line.partition(" ") for line in lines) if w]


def _faults_of_image(files: Texts, config: pytest.Config) -> Iterator[str]:
    found = instructions(files["deploy/Dockerfile"])
    code = re.sub("^#.*", "", files[START], flags=re.MULTILINE)
    yield from _faults_of_shell(code, config)
    users = [rest for word, rest in found if word == "USER"]
    if users != ["1000"]:
        yield f"it runs as {users or 'root'}"
    kept = [line[1:] for line in files[".dockerignore"].splitlines() if line.startswith("!")]
    yield from (f".dockerignore: there is no {path}" for path in kept if not (ROOT / path).exists())
    for word, rest in found:
        if word == "COPY" and not rest.startswith("--from"):
            yield from _faults_of_copy(rest.split()[:-1], kept)
        elif word == "ENV":
            pairs = dict(part.split("=", 1) for part in shlex.split(rest))
            own = {name: value for name, value in pairs.items() if name not in OF_IMAGES}
            yield from environment_faults("Dockerfile", own)
        elif word == "RUN":
            yield from _faults_of_shell(rest, config)
        elif word == "CMD" and json.loads(rest) != [START]:
            yield f"it starts {rest}"
        elif word == "HEALTHCHECK":
            paths = re.findall(r"http://127\.0\.0\.1:\d+(/\w+)", rest)
            yield from (f"the server has no {path}" for path in paths if path not in _routes())


def _faults_of_copy(paths: Sequence[str], kept: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if not (ROOT / path).exists():
            yield f"there is no {path}"
        if path != "." and not any(path.startswith(other) for other in kept):
            yield f".dockerignore leaves {path} out"


def _faults_of_shell(shell: str, config: pytest.Config) -> Iterator[str]:
    """The commands of pip, Ray and Serve, as their own parsers read them."""
    shell = re.sub(r"\$\{\w+:\+[^}]*\} torch", "", shell.replace("\\\n", " "))
    for command in re.findall(r"\b(?:pip install|ray|serve) [^\n;>&)]*", shell):
        try:
            check_command(shlex.split(command), config)
        except (CommandError, SystemExit) as error:
            yield str(error)


@cache
def _routes() -> set[str]:
    app = make_app(cast("FarmApi", None), Settings())
    return {getattr(route, "path", "") for route in app.routes}


def _faults_of_compose(files: Texts) -> Iterator[str]:
    compose = yaml.safe_load(files["deploy/docker-compose.yml"])
    more = yaml.safe_load(files["deploy/docker-compose.gpu.yml"])
    services: dict[str, dict[str, Any]] = compose["services"]
    yield from (
        f"gpu: there is no service {name}" for name in more["services"] if name not in services
    )
    stages = re.findall(r"^FROM \S+ AS (\w+)", files["deploy/Dockerfile"], re.MULTILINE)
    for service in (services["farm"], more["services"]["farm"]):
        if service["build"]["target"] not in stages:
            yield f"farm: the Dockerfile has no {service['build']['target']}"
    for secret in compose["secrets"].values():
        if f"deploy/{secret['file']}" not in SECRETS:
            yield f"the README speaks of no secret {secret['file']}"
    for name, service in services.items():
        yield from (f"{name}: {fault}" for fault in _faults_of_service(service, compose))
    yield from environment_faults("farm", services["farm"]["environment"])
    words = shlex.split(services["s3"]["command"])
    for option in words[1:]:
        if option.partition("=")[0] not in _weed_options(words[0]):
            yield f"s3: weed {words[0]} has no {option}"


def _faults_of_service(service: Mapping[str, Any], compose: Mapping[str, Any]) -> Iterator[str]:
    secrets = service.get("secrets", ())
    yield from (f"no secret {secret}" for secret in secrets if secret not in compose["secrets"])
    for volume in service.get("volumes", ()):
        source = volume.partition(":")[0]
        there = (ROOT / "deploy" / source).exists() if source[0] == "." else None
        if there is False or (there is None and source not in compose["volumes"]):
            yield f"there is no {source}"
    for path in service.get("env_file", ()):
        if f"deploy/{path}" not in SECRETS:
            yield f"the README speaks of no file {path}"
    for name, value in service.get("environment", {}).items():
        _, of_secret, secret = str(value).partition("/run/secrets/")
        if of_secret and secret not in secrets:
            yield f"{name} is of a secret that it does not have"
    yield from _faults_of_needs(service.get("depends_on", {}), compose["services"])


def _faults_of_needs(
    needs: Mapping[str, Any] | Sequence[str], services: Mapping[str, Any]
) -> Iterator[str]:
    for name in needs:
        if name not in services:
            yield f"there is no service {name}"
        # The farm's healthcheck is in its image.
        elif isinstance(needs, dict) and name != "farm" and "healthcheck" not in services[name]:
            yield f"{name} is never healthy: it has no healthcheck"


def _faults_of_addresses(files: Texts) -> Iterator[str]:
    """Services call each other where they listen."""
    compose = yaml.safe_load(files["deploy/docker-compose.yml"])
    image = files["deploy/Dockerfile"]
    port = yaml.safe_load(files["deploy/serve.yaml"])["http_options"]["port"]
    metrics = re.findall(r"--metrics-export-port (\d+)", files[START])
    listening = {"farm": {str(port), *metrics}, "s3": {"8333"}, "prometheus": {"9090"}}
    exposed = dict(instructions(image))["EXPOSE"].split()
    if set(exposed) != listening["farm"]:
        yield f"Dockerfile: it exposes {exposed}, and listens at {sorted(listening['farm'])}"
    if f":{port}/" not in dict(instructions(image))["HEALTHCHECK"]:
        yield f"Dockerfile: the healthcheck does not ask at {port}"
    calls = [
        ("Caddyfile", r"reverse_proxy (\S+)", files["deploy/docker/Caddyfile"]),
        ("prometheus.yaml", r'targets: \["([^"]+)"\]', files["deploy/docker/prometheus.yaml"]),
        ("datasources.yaml", r"http://([\w:]+)", files["deploy/docker/grafana/datasources.yaml"]),
        ("farm", r"http://([\w:]+)", str(compose["services"]["farm"]["environment"])),
    ]
    for where, pattern, text in calls:
        for host, _, at in (found.partition(":") for found in re.findall(pattern, text)):
            if at not in listening.get(host, ()):
                yield f"{where}: nobody listens at {host}:{at}"


@cache
def _weed_options(command: str) -> set[str]:
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    done = subprocess.run([weed, "help", command], capture_output=True, text=True, check=False)
    return set(re.findall(r"^\s+(-[\w.]+)", done.stdout + done.stderr, re.MULTILINE))
