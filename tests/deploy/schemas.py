"""Kubernetes objects against their schemas: every field is known, and of the right type."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from tests.deploy.rendered import Object, Pod, of_kind, pods

HERE = Path(__file__).parent
KUBERNETES = "1.30"  # the oldest version that the README names
KUBERAY = ("RayService", "RayJob")
# Without a schema at hand: these fields and no others, as the tests check what they mean.
OTHERS = {"PodMonitor": {"selector", "podMetricsEndpoints"}}


def schema_faults(objects: list[Object]) -> Iterator[str]:
    """Fields that no schema has, or whose values are not of their types."""
    for each in objects:
        kind = each["kind"]
        where = f"{kind} {each['metadata']['name']}"
        if kind in KUBERAY:
            yield from _kuberay_faults(where, each)
        elif kind in OTHERS:
            if each["spec"].keys() != OTHERS[kind]:
                yield f"{where}: spec has the fields {sorted(each['spec'])}"
        else:
            yield from _core_faults(where, each)
    for pod in pods(objects):
        yield from _pod_faults(pod)
    for service in of_kind(objects, "RayService"):
        yield from _operator_faults(service["spec"])
    for job in of_kind(objects, "RayJob"):
        if not job["spec"].get("clusterSelector", {}).get("ray.io/cluster"):
            yield "RayJob: clusterSelector names no ray.io/cluster"


def _core_faults(where: str, each: Object) -> Iterator[str]:
    for version in (KUBERNETES, kubernetes_validate.latest_version()):
        if fault := _core_fault(json.dumps(each), version):
            yield f"{where}: {fault}"


@cache  # a broken object is among many that were checked already
def _core_fault(text: str, version: str) -> str:
    try:
        kubernetes_validate.validate(json.loads(text), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return str(error.message)
    return ""


def _pod_faults(pod: Pod) -> Iterator[str]:
    metadata = {"name": "a", **pod.template.get("metadata", {})}
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}
    yield from _core_faults(f"pods of {pod.where}", whole)


def _kuberay_faults(where: str, each: Object) -> Iterator[str]:
    if each["apiVersion"] != "ray.io/v1":
        yield f"{where}: apiVersion is {each['apiVersion']}"
    for error in jsonschema.Draft202012Validator(_schema(each["kind"])).iter_errors(each):
        yield f"{where}: {'.'.join(map(str, error.path))}: {error.message}"


def _operator_faults(spec: Object) -> Iterator[str]:
    """What KubeRay's operator checks beyond its schemas, as far as these objects could fail it."""
    cluster, strategy = spec["rayClusterConfig"], spec.get("upgradeStrategy", {})
    if cluster.get("authOptions", {}).get("mode") == "token" and "rayVersion" not in cluster:
        yield "RayService: token authentication needs rayVersion"
    if strategy.get("type") not in ("None", "NewCluster", "NewClusterWithIncrementalUpgrade"):
        yield f"RayService: unknown upgrade strategy {strategy.get('type')}"
    if strategy.get("type") == "NewClusterWithIncrementalUpgrade":
        if not cluster.get("enableInTreeAutoscaling"):
            yield "RayService: an incremental upgrade needs the autoscaler"
        if "clusterUpgradeOptions" not in strategy:
            yield "RayService: an incremental upgrade needs clusterUpgradeOptions"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        name = group.get("groupName", "head")
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: the autoscaler v2 needs restartPolicy Never"
        if group.get("resources") and {"num-cpus", "resources"} & group["rayStartParams"].keys():
            yield f"{name}: resources both in rayStartParams and beside them"


@cache
def _schema(kind: str) -> Any:
    return _closed(json.loads((HERE / f"kuberay/{kind.lower()}.schema.json").read_text()))


def _closed(schema: Any) -> Any:
    """The same schema, under which objects have no other properties than the listed ones."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        closed.setdefault("additionalProperties", False)
    return closed
