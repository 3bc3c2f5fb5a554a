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
        yield from _job_faults(job["spec"])


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


def _job_faults(spec: Object) -> Iterator[str]:
    """What KubeRay's operator refuses in a job on a cluster that runs already."""
    if not spec.get("clusterSelector", {}).get("ray.io/cluster"):
        yield "RayJob: clusterSelector names no ray.io/cluster"
    if spec.get("backoffLimit", 0) > 0:
        yield "RayJob: with clusterSelector there is no backoffLimit"
    if spec.get("submissionMode") == "SidecarMode":
        yield "RayJob: with clusterSelector there is no SidecarMode"
    for field in ("suspend", "ttlSecondsAfterFinished"):
        if spec.get(field):
            yield f"RayJob: with clusterSelector there is no {field}"


def _operator_faults(spec: Object) -> Iterator[str]:
    """What KubeRay's operator checks beyond its schemas, as far as these objects could fail it."""
    cluster, strategy = spec["rayClusterConfig"], spec.get("upgradeStrategy", {})
    if cluster.get("authOptions", {}).get("mode") == "token" and "rayVersion" not in cluster:
        yield "RayService: token authentication needs rayVersion"
    if strategy.get("type") not in ("None", "NewCluster", "NewClusterWithIncrementalUpgrade"):
        yield f"RayService: unknown upgrade strategy {strategy.get('type')}"
    yield from _upgrade_faults(spec)
    for group in cluster["workerGroupSpecs"]:
        yield from _group_faults(group, cluster)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        name = group.get("groupName", "head")
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: the autoscaler v2 needs restartPolicy Never"
        if group.get("resources") and {"num-cpus", "resources"} & group["rayStartParams"].keys():
            yield f"{name}: resources both in rayStartParams and beside them"


def _upgrade_faults(spec: Object) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy", {})
    if strategy.get("type") != "NewClusterWithIncrementalUpgrade":
        return
    if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield "RayService: an incremental upgrade needs the autoscaler"
    options = strategy.get("clusterUpgradeOptions")
    if options is None:
        yield "RayService: an incremental upgrade needs clusterUpgradeOptions"
    elif options["stepSizePercent"] > options.get("maxSurgePercent", 100):
        yield "RayService: stepSizePercent is more than maxSurgePercent"


def _group_faults(group: Object, cluster: Object) -> Iterator[str]:
    name, least, most = group["groupName"], group.get("minReplicas", 0), group["maxReplicas"]
    if least > most:
        yield f"{name}: minReplicas {least} is more than maxReplicas {most}"
    version = cluster.get("autoscalerOptions", {}).get("version")
    if "idleTimeoutSeconds" in group and version != "v2":
        yield f"{name}: idleTimeoutSeconds needs the autoscaler v2"
    if "labels" in group["rayStartParams"]:
        yield f"{name}: labels belong beside rayStartParams"


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
