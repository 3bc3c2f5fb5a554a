"""What pods may do and use: no root, nothing written outside of volumes, bounded memory."""

from collections.abc import Iterator
from typing import Any

from tests.deploy.rendered import Object, Pod, of_kind, pods

UNITS = {"Mi": 2**20, "Gi": 2**30}


def security_faults(objects: list[Object]) -> Iterator[str]:
    """Containers with more rights than they need, and without bounds."""
    for pod in pods(objects):
        if not pod.spec.get("securityContext", {}).get("runAsNonRoot"):
            yield f"{pod.where}: may run as root"
        for container in pod.containers:
            yield from _container_faults(pod.where, container)
            yield from _volume_faults(pod, container)
    for service in of_kind(objects, "RayService"):
        yield from _container_faults(
            "autoscaler", service["spec"]["rayClusterConfig"]["autoscalerOptions"]
        )


def _container_faults(where: str, container: Object) -> Iterator[str]:
    rights: dict[str, Any] = container.get("securityContext", {})
    if not rights.get("readOnlyRootFilesystem"):
        yield f"{where}: its root file system is not read-only"
    if rights.get("allowPrivilegeEscalation", True):
        yield f"{where}: it may gain privileges"
    if rights.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where}: it keeps capabilities"
    resources = container.get("resources", {})
    if "memory" not in resources.get("limits", {}):
        yield f"{where}: no limit of memory"
    if not {"cpu", "memory"} <= resources.get("requests", {}).keys():
        yield f"{where}: no requests of cpu and memory"


def _volume_faults(pod: Pod, container: Object) -> Iterator[str]:
    if pod.start is None:
        return
    volumes = {each["name"]: each for each in pod.spec["volumes"]}
    mounts = {
        each["mountPath"]: volumes.get(each["name"], {}) for each in container["volumeMounts"]
    }
    for path in ("/tmp", "/dev/shm"):
        if "emptyDir" not in mounts.get(path, {}):
            yield f"{pod.where}: nothing can be written to {path}"
    home = next((e["value"] for e in container["env"] if e["name"] == "HOME"), "")
    if "emptyDir" not in mounts.get(home, {}):
        yield f"{pod.where}: HOME is {home}, where nothing can be written"
    shared = mounts.get("/dev/shm", {}).get("emptyDir", {}).get("sizeLimit", "0Gi")
    memory = container["resources"].get("limits", {}).get("memory", "0Gi")
    if 2 * _bytes(shared) > _bytes(memory) > 0:
        yield f"{pod.where}: /dev/shm takes {shared} of {memory}"


def _bytes(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]
