"""What Kubernetes objects name, checked against what there is: ports, paths, commands, secrets."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray._private import ray_constants

from farm.ingress import serve_app
from svd_engine import __version__
from tests.deploy.environment import environment_faults
from tests.deploy.rendered import FOLDER, Object, Pod, named, of_kind, pods, selected
from tests.deploy.serving import routes, serve_faults
from tests.support.commands import CommandError, check_command
from tests.support.pages import ROOT, Page

RAY = Path(str(ray.__file__)).parent
# By the names of ports: Ray's own numbers, and the sources that answer HTTP there.
RAY_PORTS = {
    "gcs-server": ray_constants.DEFAULT_PORT,
    "dashboard": ray_constants.DEFAULT_DASHBOARD_PORT,
    "agent": ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT,
}
ENDING_S = 10.0  # to start a hook, and to end Ray's processes
ANSWERED_BY = {"dashboard": "http_server_head.py", "agent": "http_server_agent.py"}


def meaning_faults(objects: list[Object], config: pytest.Config) -> Iterator[str]:
    """Everything that is named and is not there, or does not agree."""
    for pod in pods(objects):
        yield from _port_faults(pod)
        yield from _probe_faults(pod)
        yield from _command_faults(pod, objects)
        yield from _start_faults(pod, config)
        yield from _reference_faults(pod, objects)
        yield from environment_faults(pod.where, _variables(pod, objects))
    yield from _selector_faults(objects)
    yield from _version_faults(objects)
    for service in of_kind(objects, "RayService"):
        yield from serve_faults(yaml.safe_load(service["spec"]["serveConfigV2"]))
        yield from _replica_faults(service, objects)
        yield from _secret_faults(service, objects)
    for job in of_kind(objects, "RayJob"):
        yield from _refused(job["spec"]["entrypoint"], config)


def _port_faults(pod: Pod) -> Iterator[str]:
    metrics = (pod.start or {}).get("metrics-export-port")
    if pod.start is not None and str(pod.port("metrics")) != metrics:
        yield f"{pod.where}: Ray exports metrics at {metrics}, the port is {pod.port('metrics')}"
    for name, number in RAY_PORTS.items():
        if pod.port(name) not in (None, number):
            yield f"{pod.where}: Ray's {name} listens at {number}, not at {pod.port(name)}"


def _probe_faults(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {})
            port = probe.get("httpGet", probe.get("tcpSocket", {})).get("port")
            if port is not None and pod.port(port) is None:
                yield f"{pod.where}: {kind}: there is no port {port}"
            path = probe.get("httpGet", {}).get("path")
            if path and f'"{path}"' not in _source(ANSWERED_BY.get(str(port), "")):
                yield f"{pod.where}: {kind}: {port} has no path {path}"
            for url in re.findall(
                r"http://\S+", " ".join(probe.get("exec", {}).get("command", ()))
            ):
                number, _, route = url.removeprefix("http://127.0.0.1:").partition("/")
                if pod.port(int(number)) is None or f"/{route}" not in routes():
                    yield f"{pod.where}: {kind}: nothing answers at {url}"


def _command_faults(pod: Pod, objects: list[Object]) -> Iterator[str]:
    grace = pod.spec.get("terminationGracePeriodSeconds", 30)
    for container in pod.containers:
        hook = container.get("lifecycle", {}).get("preStop", {})
        command = hook.get("exec", {}).get("command", ["drain.py 0"])
        first = float(hook.get("sleep", {}).get("seconds", command[-1].split()[-1]))
        then = _drain_s(container) if pod.start is not None else 0.0
        if first + then + ENDING_S > grace:
            yield f"{pod.where}: preStop takes {first:g} s and Ray {then:g} s of {grace}"
        probe = container.get("readinessProbe", {}).get("exec", {}).get("command")
        for words in filter(None, (hook.get("exec", {}).get("command"), probe)):
            line = shlex.join(words) if words[0] != "sh" else words[-1].removeprefix("exec ")
            yield from _script_faults(pod, container, line, objects)


def _drain_s(container: Object) -> float:
    """For how long Ray waits after SIGTERM until it ends its processes."""
    name = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    given = {each["name"]: each.get("value") for each in container.get("env", ())}
    return float(given.get(name, ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S))


def _script_faults(pod: Pod, container: Object, line: str, objects: list[Object]) -> Iterator[str]:
    program, script = shlex.split(line)[:2]
    mount, _, name = script.rpartition("/")
    volumes = {each["name"]: each for each in pod.spec["volumes"]}
    mounted = {each["mountPath"]: volumes.get(each["name"]) for each in container["volumeMounts"]}
    wanted = ((mounted.get(mount) or {}).get("configMap") or {}).get("name")
    maps = [each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"] == wanted]
    if program != "python" or not any(name in each["data"] for each in maps):
        yield f"{pod.where}: there is no {script}"


def _start_faults(pod: Pod, config: pytest.Config) -> Iterator[str]:
    """KubeRay gives these options to `ray start` in a shell's line."""
    options = [f"--{key}={value}" for key, value in (pod.start or {}).items()]
    flags = [option.removesuffix("=true") for option in options]
    yield from _refused(" ".join(["ray", "start", *flags]), config, pod.where)
    try:
        resources_of(pod.start or {})
    except ValueError as error:
        yield f"{pod.where}: ray start --resources: {error}"


def _refused(line: str, config: pytest.Config, where: str = "") -> Iterator[str]:
    try:
        check_command(shlex.split(line), config)
    except (CommandError, ValueError) as error:
        yield f"{where}: {line}: {error}"


def _reference_faults(pod: Pod, objects: list[Object]) -> Iterator[str]:
    volumes = {each["name"] for each in pod.spec.get("volumes", ())} | {"data"}
    for container in pod.containers:
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield f"{pod.where}: there is no volume {mount['name']}"
    text = yaml.safe_dump(pod.template)
    for name in re.findall(r"configMap(?:Ref)?:\n\s+name: (\S+)", text):
        if name not in named(objects, "ConfigMap"):
            yield f"{pod.where}: there is no ConfigMap {name}"
    for name in re.findall(
        r"secretName: (\S+)|secret(?:Key)?Ref:\n(?:\s+key: \S+\n)?\s+name: (\S+)", text
    ):
        if "".join(name) not in secrets():
            yield f"{pod.where}: the README makes no Secret {''.join(name)}"


def _variables(pod: Pod, objects: list[Object]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    for container in pod.containers:
        for source in container.get("envFrom", ()):
            found |= maps.get(source.get("configMapRef", {}).get("name"), {})
            found |= dict.fromkeys(secrets().get(source.get("secretRef", {}).get("name"), ()))
        found |= {each["name"]: each.get("value") for each in container.get("env", ())}
    return found


@cache
def secrets() -> dict[str, set[str]]:
    """The keys of each Secret that the README makes."""
    found = {}
    for command in Page(FOLDER / "README.md").commands:
        if command.words[:4] == ("kubectl", "create", "secret", "generic"):
            given = [word.partition("=")[2] for word in command.words if word.startswith("--from")]
            found[command.words[4]] = {each.partition("=")[0] for each in given}
    return found


def _selector_faults(objects: list[Object]) -> Iterator[str]:
    for each in of_kind(objects, "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        spec, where = each["spec"], f"{each['kind']} {each['metadata']['name']}"
        service = each["kind"] == "Service"
        selector = {"matchLabels": spec["selector"]} if service else spec.get("selector")
        chosen = selected(selector or spec["podSelector"], objects)
        if not chosen:
            yield f"{where} selects no pod"
        ports = [port["targetPort"] for port in spec.get("ports", ())]
        ports += [port["port"] for port in spec.get("podMetricsEndpoints", ())]
        for port in ports:
            yield from (
                f"{where}: {p.where} has no port {port}" for p in chosen if not p.port(port)
            )
        rules = [port for rule in spec.get("ingress", ()) for port in rule.get("ports", ())]
        for port in rules:
            if not any(pod.port(port["port"]) for pod in chosen):
                yield f"{where}: no pod has a port {port['port']}"
        if spec.get("minAvailable", -1) >= sum(pod.replicas for pod in chosen):
            yield f"{where}: minAvailable {spec['minAvailable']} lets no pod go"


def _version_faults(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        for container in pod.containers:
            name, _, tag = container["image"].rpartition(":")
            if name.endswith("svd-farm") and tag != __version__:
                yield f"{pod.where}: the image has the tag {tag}, the package is {__version__}"
    for service in of_kind(objects, "RayService"):
        version = service["spec"]["rayClusterConfig"].get("rayVersion")
        if f"ray=={version}" not in (ROOT / "deploy/constraints.txt").read_text().splitlines():
            yield f"RayService: rayVersion {version} is not that of deploy/constraints.txt"


def _replica_faults(service: Object, objects: list[Object]) -> Iterator[str]:
    """Each replica of the HTTP server finds a place, and Serve listens where the pods say."""
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    wanted, places = serve_app.REPLICAS, 0.0
    for pod in pods(objects):
        with suppress(ValueError):  # a fault of its own
            places += resources_of(pod.start or {}).get("ingress", 0) * pod.replicas
        if pod.port("serve") not in (None, serve["http_options"]["port"]):
            yield f"{pod.where}: Serve listens at {serve['http_options']['port']}"
    if places < wanted:
        yield f"RayService: {wanted} replicas of the HTTP server have {places:g} places"


def _secret_faults(service: Object, objects: list[Object]) -> Iterator[str]:
    options: dict[str, Any] = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    host, _, port = options["redisAddress"].partition(":")
    ports = {
        (each["metadata"]["name"], str(number["port"]))
        for each in of_kind(objects, "Service")
        for number in each["spec"]["ports"]
    }
    if (host, port) not in ports:
        yield f"RayService: there is no Redis at {options['redisAddress']}"
    secret = options["redisPassword"]["valueFrom"]["secretKeyRef"]
    wanted = [(secret["name"], secret["key"])]
    wanted += [(service["spec"]["rayClusterConfig"]["authOptions"]["secretName"], "auth_token")]
    for name, key in wanted:
        if name not in secrets():
            yield f"RayService: the README makes no Secret {name}"
        elif key not in secrets()[name]:
            yield f"RayService: the Secret {name} has no key {key}"


def resources_of(start: Mapping[str, str]) -> dict[str, float]:
    """Ray's custom resources, as a shell reads them. Raises ValueError unless they are JSON."""
    (text,) = shlex.split(start.get("resources", "{}"))
    found: dict[str, float] = json.loads(text)
    return found


@cache
def _source(name: str) -> str:
    return (RAY / "dashboard" / name).read_text() if name else ""
