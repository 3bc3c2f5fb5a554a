"""What `deploy/kubernetes` renders is valid, and names what there is."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.deploy.meaning import meaning_faults
from tests.deploy.rendered import OVERLAYS, Object, of_kind, pods, render
from tests.deploy.schemas import schema_faults
from tests.deploy.security import security_faults
from tests.deploy.serving import serve_config

GONE = object()


def faults(objects: list[Object], config: pytest.Config) -> Iterator[str]:
    yield from schema_faults(objects)
    yield from meaning_faults(objects, config)
    yield from security_faults(objects)


@pytest.mark.parametrize("folder", [*OVERLAYS, "batch"])
def test_what_is_rendered_has_no_fault(folder: str, pytestconfig: pytest.Config) -> None:
    assert not [*faults(render(folder), pytestconfig)]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_serve_runs_the_same_application_as_elsewhere(folder: str) -> None:
    (service,) = of_kind(render(folder), "RayService")
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == serve_config()


def test_overlays_differ_as_they_say() -> None:
    groups = {folder: [pod.where for pod in pods(render(folder))] for folder in OVERLAYS}
    assert groups == {
        "overlays/cpu-demo": ["head", "ingress", "cpu", "svd-farm-redis"],
        "overlays/gpu": ["head", "ingress", "gpu", "svd-farm-redis"],
        "overlays/gpu-spot": ["head", "ingress", "gpu", "gpu-spot", "svd-farm-redis"],
        "overlays/gateway": ["head", "ingress", "gpu", "svd-farm-redis"],
    }


CLUSTER = "RayService spec.rayClusterConfig"
GPU = f"{CLUSTER}.workerGroupSpecs.1"
WORKER = f"{GPU}.template.spec.containers.0"
HTTP = f"{CLUSTER}.workerGroupSpecs.0.template.spec"
FARM = "import_path: farm.ingress.serve_app:app"


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        # Schemas
        (f"{CLUSTER}.autoscalerOptions.verison", "v2", "'verison' was unexpected"),
        (f"{CLUSTER}.autoscalerOptions.version", "v3", "'v3' is not one of"),
        (f"{CLUSTER}.authOptions.secret", "a", "'secret' was unexpected"),
        (f"{GPU}.idleTimeoutSeconds", "600", "'600' is not of type 'integer'"),
        (f"{GPU}.minReplicas", GONE, "'minReplicas' is a required property"),
        (f"{WORKER}.volumeMount", [], "'volumeMount' was unexpected"),
        (f"{WORKER}.livenessProbe.httpGet.port", GONE, "'port' is a required property"),
        ("RayService apiVersion", "ray.io/v1alpha1", "apiVersion is ray.io/v1alpha1"),
        ("PodDisruptionBudget spec.minAvailabe", 1, "'minAvailabe' was unexpected"),
        ("Service apiVersion", "v2", "Couldn't find schema for kind Service"),
        ("PodMonitor spec.endpoints", [], "spec has the fields"),
        # What KubeRay's operator refuses
        (f"{CLUSTER}.rayVersion", GONE, "needs rayVersion"),
        (f"{GPU}.template.spec.restartPolicy", "Always", "needs restartPolicy Never"),
        (f"{CLUSTER}.headGroupSpec.resources", {"CPU": "1"}, "head: resources both"),
        ("RayService spec.upgradeStrategy.type", "Rolling", "unknown upgrade strategy Rolling"),
        (f"{GPU}.minReplicas", 9, "gpu: minReplicas 9 is more than maxReplicas 8"),
        (f"{CLUSTER}.autoscalerOptions.version", "v1", "gpu: idleTimeoutSeconds needs"),
        (f"{GPU}.rayStartParams.labels", "a=b", "gpu: labels belong beside rayStartParams"),
        # Settings and other variables
        ("ConfigMap:settings data.FARM_STOER", "s3://a/b", "has no setting FARM_STOER"),
        ("ConfigMap:settings data.FARM_MODELS", "nano", "FARM_MODELS|settings"),
        ("ConfigMap:settings data.FARM_SEGMENT_STEPS", "0", "FARM_SEGMENT_STEPS"),
        ("ConfigMap:settings data.RAY_AUTH_MOOD", "token", "nothing reads RAY_AUTH_MOOD"),
        ("ConfigMap:settings data.AWS_ENDPOINT", "http://a", "nothing reads AWS_ENDPOINT"),
        (f"{WORKER}.env.0.name", "HOEM", "unknown variable HOEM"),
        # Options of `ray start`
        (f"{GPU}.rayStartParams.num-cpu", "1", "No such option.*num-cpu"),
        (f"{GPU}.rayStartParams.num-gpus", "one", "'one' is not a valid integer"),
        (f"{CLUSTER}.workerGroupSpecs.0.rayStartParams.resources", "{ingress: 1}", "ray start"),
        # Ports
        (f"{WORKER}.ports.1.containerPort", 8081, "gpu: Ray exports metrics at 8080"),
        (f"{WORKER}.ports.0.containerPort", 5236, "gpu: Ray's agent listens at 52365"),
        (f"{HTTP}.containers.0.ports.2.containerPort", 80, "Serve listens at 8000"),
        (f"{HTTP}.containers.0.ports.2.name", "http", "ingress has no port serve"),
        ("Service:svd-farm spec.ports.0.targetPort", "web", "ingress has no port web"),
        ("NetworkPolicy:http spec.ingress.0.ports.0.port", "web", "no pod has a port web"),
        ("PodMonitor spec.podMetricsEndpoints.0.port", "metric", "has no port metric"),
        (f"{CLUSTER}.gcsFaultToleranceOptions.redisAddress", "redis:6379", "no Redis at redis"),
        # Probes and hooks
        (f"{WORKER}.livenessProbe.httpGet.path", "/health", "agent has no path /health"),
        (f"{WORKER}.livenessProbe.httpGet.port", "agnet", "there is no port agnet"),
        (
            f"{HTTP}.containers.0.readinessProbe.exec.command.2",
            "http://127.0.0.1:8000/ready",
            "nothing answers at http://127.0.0.1:8000/ready",
        ),
        (f"{HTTP}.containers.0.readinessProbe.exec.command.1", "/a.py", "there is no /a.py"),
        (f"{GPU}.template.spec.terminationGracePeriodSeconds", 60, "preStop takes 120 s"),
        (f"{WORKER}.env.1", GONE, "preStop takes 120 s and Ray 30 s of 150"),
        # Names
        (f"{WORKER}.volumeMounts.0.name", "tpm", "there is no volume tpm"),
        (f"{WORKER}.envFrom.0.configMapRef.name", "settings", "there is no ConfigMap settings"),
        (f"{WORKER}.envFrom.1.secretRef.name", "s3", "makes no Secret s3"),
        (f"{GPU}.template.spec.volumes.3.secret.secretName", "keys", "makes no Secret keys"),
        (f"{CLUSTER}.authOptions.secretName", "token", "makes no Secret token"),
        (f"{CLUSTER}.gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef.key", "pass",
         "Secret svd-farm-redis has no key pass"),
        ("PodDisruptionBudget spec.selector.matchLabels.a", "b", "selects no pod"),
        ("PodDisruptionBudget spec.minAvailable", 2, "lets no pod go"),
        # Versions, and the application
        (f"{CLUSTER}.rayVersion", "2.59.0", "rayVersion 2.59.0"),
        (f"{WORKER}.image", "registry.example/svd-farm:0.1.0", "the image has the tag 0.1.0"),
        ("RayService spec.serveConfigV2", ("route_prefix", "route"), "Serve: .*route"),
        ("RayService spec.serveConfigV2", (FARM, f"{FARM}s"), "has no attribute 'apps'"),
        ("RayService spec.serveConfigV2", ("name: Ingress", "name: Door"), "no deployment Door"),
        ("RayService spec.serveConfigV2", ("replicas: 2", "replicas: 3"), "shared by 2 replicas"),
        (f"{CLUSTER}.workerGroupSpecs.0.minReplicas", 1, "2 replicas .* have 1 places"),
        # Security and resources
        (f"{HTTP}.securityContext.runAsNonRoot", GONE, "ingress: may run as root"),
        (f"{WORKER}.securityContext.readOnlyRootFilesystem", False, "gpu: .*read-only"),
        (f"{WORKER}.securityContext.capabilities", GONE, "gpu: .*capabilities"),
        (f"{CLUSTER}.autoscalerOptions.securityContext", GONE, "autoscaler: .*read-only"),
        (f"{WORKER}.resources.limits.memory", GONE, "gpu: no limit of memory"),
        (f"{WORKER}.volumeMounts.1", GONE, "gpu: HOME is /cache, where nothing can be written"),
        (f"{WORKER}.volumeMounts.2", GONE, "gpu: nothing can be written to /dev/shm"),
        (f"{GPU}.template.spec.volumes.2.emptyDir.sizeLimit", "64Gi", "gpu: /dev/shm .* 64Gi"),
    ],
)  # fmt: skip
def test_faults_are_found(
    place: str, value: Any, complaint: str, pytestconfig: pytest.Config
) -> None:
    objects = render("overlays/gpu")
    _break(objects, place, value)
    found = [*faults(objects, pytestconfig)]
    assert any(re.search(complaint, fault, re.DOTALL) for fault in found), found


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("entrypoint", ("--seeds", "--sedes"), "--sedes"),
        ("clusterSelector", GONE, "clusterSelector names no"),
        ("backoffLimit", 3, "there is no backoffLimit"),
        ("submissionMode", "SidecarMode", "there is no SidecarMode"),
        ("suspend", True, "there is no suspend"),
        ("ttlSecondsAfterFinished", 60, "there is no ttlSecondsAfterFinished"),
    ],
)
def test_a_wrong_batch_is_found(
    field: str, value: Any, complaint: str, pytestconfig: pytest.Config
) -> None:
    objects = render("batch")
    _break(objects, f"RayJob spec.{field}", value)
    assert complaint in "".join(faults(objects, pytestconfig))


def test_an_incremental_upgrade_needs_its_options(pytestconfig: pytest.Config) -> None:
    for gone in (
        "upgradeStrategy.clusterUpgradeOptions",
        "rayClusterConfig.enableInTreeAutoscaling",
    ):
        objects = render("overlays/gateway")
        _break(objects, f"RayService spec.{gone}", GONE)
        assert "an incremental upgrade needs" in "".join(faults(objects, pytestconfig)), gone
    objects = render("overlays/gateway")
    options = "RayService spec.upgradeStrategy.clusterUpgradeOptions"
    _break(objects, f"{options}.maxSurgePercent", 50)
    assert "stepSizePercent is more than" in "".join(faults(objects, pytestconfig))


def _break(objects: list[Object], place: str, value: Any) -> None:
    """Change one field. place: KIND or KIND:PART-OF-NAME, and the path; a pair replaces a text."""
    target, path = place.split(" ")
    kind, _, name = target.partition(":")
    at: Any = next(each for each in of_kind(objects, kind) if name in each["metadata"]["name"])
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in steps:
        at = at[step]
    if value is GONE:
        del at[last]
    elif isinstance(value, tuple):
        changed = at[last].replace(*value)
        assert changed != at[last]
        at[last] = changed
    else:
        assert not isinstance(last, int) or at[last] != value
        at[last] = value
