"""Rules for imports: which package may import which, and which libraries an import may not load."""

import ast
from pathlib import Path

import pytest

from tests.support.fresh_imports import loaded_after

ROOT = Path(__file__).parent.parent
HEAVY = {"opentelemetry.sdk", "torch", "ray", "transformers", "boto3", "fastapi", "httpx", "httpx2"}

# The packages and single files of the farm in layers, the lowest first. Each may import only from
# lower layers, not from its own.
FLOORS: list[set[str]] = [
    {
        *(
            "artifacts",
            "background",
            "caller",
            "clock",
            "errors",
            "masking",
            "metrics",
            "quantities",
        ),
        "recent",
    },
    {"logs", "net", "store", "tracing"},
    {"model"},
    {"scheduling", "settings"},
    {"ownership", "records", "workers", "simulate"},
    {"coordinator"},
    {"client", "doctor"},
    {"__init__", "operator_commands", "batch", "ingress", "serving"},
    {"__main__"},
    {"bench"},
]
# Exceptions: packages in lower layers that only these files of a package may import.
DOORS: dict[str, dict[str, set[str]]] = {
    # The front door knows the farm by FarmApi alone; Ray is behind `serve_app`.
    "ingress": {
        "client": {"serve_app"},
        "workers": {"serve_app"},
        "coordinator": {"videos"},
        "records": set(),
        "ownership": set(),
        "scheduling": set(),
    },
    # A client over HTTP needs no cluster: the coordinator is behind `ray_link` alone.
    "client": {
        "coordinator": {"ray_link"},
        "ownership": {"ray_link"},
        "records": {"proxy"},  # how a picture is written
        "scheduling": set(),
    },
    "batch": {"coordinator": set(), "ownership": set(), "records": set()},
    # Tasks and their assignment concern the dispatcher, not the store.
    "records": {"scheduling": set()},
}
# The only files that may import these libraries.
HOMES = {
    "ray": {
        "farm/bench/__main__",
        "farm/bench/http",
        "farm/bench/start",
        "farm/client/ray_link",
        "farm/doctor/ray_probe",
        "farm/ingress/serve_app",
        "farm/metrics/ray_meter",
        "farm/workers/actor",
        "farm/workers/cluster",
        "farm/workers/detached",
        "farm/workers/lifeline",
        "farm/workers/pool",
    },
    "opentelemetry": {"farm/tracing/otel"},
    "torch": {
        "farm/doctor/torch_probe",
        "farm/workers/engines",
        "farm/workers/previews",
        "farm/workers/worker",
    },
    "boto3": {"farm/store/s3"},
    "httpx2": {"farm/client/http_remote", "farm/net/outbound"},
    "diffusers": set(),
    "accelerate": set(),
}
# The libraries that must not be loaded after a module was imported.
UNLOADED = {
    "farm": HEAVY,
    "farm.batch.__main__": HEAVY,
    "farm.client.connection": HEAVY,
    "farm.client.farm": HEAVY,
    "farm.client.http_remote": HEAVY - {"httpx2"},
    "farm.client.job": HEAVY,
    "farm.coordinator.webhooks": HEAVY - {"httpx2"},
    "farm.doctor.checks": HEAVY,
    "farm.errors": HEAVY,
    "farm.ingress.app": HEAVY - {"fastapi", "httpx2"},
    "farm.model.job": HEAVY,
    "farm.model.parameters": HEAVY,
    "farm.model.plan": HEAVY,
    "farm.model.request": HEAVY,
    "farm.ownership.lease": HEAVY,
    "farm.records.stored": HEAVY,
    "farm.scheduling.job_queue": HEAVY,
    "farm.scheduling.placement": HEAVY,
    "farm.scheduling.scheduler": HEAVY,
    "farm.scheduling.state": HEAVY,
    "farm.settings": HEAVY,
    "farm.store": HEAVY,
    "farm.workers.cluster": {"torch", "transformers"},
    "farm.workers.worker": {"ray", "fastapi", "transformers"},
    "svd_engine": HEAVY,
    "svd_engine.arguments": HEAVY,
    "svd_engine.engine": HEAVY - {"torch"},
    "svd_engine.params": HEAVY,
    "svd_engine.recognize": HEAVY,
    "svd_engine.variants": HEAVY,
}


def modules(package: str) -> dict[str, Path]:
    """The files of a package by their paths below it, without the suffix."""
    root = ROOT / package
    return {str(p.relative_to(root).with_suffix("")): p for p in root.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports, at the top or in functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            found.add(node.module)
    return found


def farm_packages(path: Path) -> set[str]:
    """The farm's packages that a file imports from; `__init__` stands for the public names."""
    own = [m.split(".") for m in imports(path)]
    return {parts[1] if len(parts) > 1 else "__init__" for parts in own if parts[0] == "farm"}


FARM = modules("farm")


def test_every_package_of_the_farm_has_its_floor() -> None:
    assert {name.split("/")[0] for name in FARM} == set().union(*FLOORS)
    assert sum(map(len, FLOORS)) == len(set().union(*FLOORS))


@pytest.mark.parametrize("name", FARM)
def test_the_farm_imports_downward(name: str) -> None:
    package = name.split("/")[0]
    height = next(i for i, floor in enumerate(FLOORS) if package in floor)
    assert farm_packages(FARM[name]) <= set().union(*FLOORS[:height], {package})


@pytest.mark.parametrize("package", DOORS)
def test_what_few_files_of_a_package_may_import(package: str) -> None:
    files = {name: path for name, path in FARM.items() if name.startswith(f"{package}/")}
    for other, permitted in DOORS[package].items():
        users = {
            name.split("/")[-1] for name, path in files.items() if other in farm_packages(path)
        }
        assert users == permitted, other


@pytest.mark.parametrize("name", modules("svd_engine"))
def test_the_engine_knows_nothing_of_the_farm(name: str) -> None:
    roots = {m.split(".")[0] for m in imports(modules("svd_engine")[name])}
    assert not roots & {"farm", "ray", "boto3", "fastapi", "diffusers"}


@pytest.mark.parametrize("library", HOMES)
def test_homes(library: str) -> None:
    users = {
        f"farm/{name}"
        for name, path in FARM.items()
        if library in {m.split(".")[0] for m in imports(path)}
    }
    assert users == HOMES[library]


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What each module loads when it is imported."""
    return loaded_after(list(UNLOADED))


@pytest.mark.parametrize("module", UNLOADED)
def test_importing_leaves_unloaded(module: str, loaded: dict[str, set[str]]) -> None:
    assert not loaded[module] & UNLOADED[module]


def test_the_environment_is_read_in_few_places() -> None:
    """Only the settings, the cache folder, and a worker's threads and network come from there.

    The benchmark over HTTP sets the settings of the farm that it starts.
    """
    readers = {
        f"{package}/{name}"
        for package in ("farm", "svd_engine")
        for name, path in modules(package).items()
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    permitted = {"svd_engine/tiny", "farm/settings/environment"}
    permitted |= {"farm/workers/actor", "farm/workers/interface"}
    assert readers - {"farm/bench/http"} == permitted
