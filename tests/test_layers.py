"""The arrows of the house: who may import whom, and what stays unloaded."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "ray", "transformers", "boto3", "fastapi", "httpx"}

# What each file of the farm may import of the farm and of the engine.
ENGINE_NUMBERS = {"svd_engine.params"}
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "request": {"svd_engine"} | ENGINE_NUMBERS,
    "plan": {"farm.request"},
    "scheduler": {"farm.plan", "farm.request"},
    "store/__init__": {"farm.errors", "farm.store.local"},
    "store/local": {"farm.errors"},
    "inputs": {"farm.errors", "farm.request"},
    "summary": {"farm.errors", "farm.store"} | ENGINE_NUMBERS,
    "contact_sheet": {"farm.summary"},
    "progress": {"farm.plan", "farm.summary"},
    "workers": {
        "farm.request",
        "svd_engine",
        "svd_engine.checkpoint",
        "svd_engine.image",
        "svd_engine.params",
    },
    "cluster": {
        "farm",
        "farm.errors",
        "farm.plan",
        "farm.pool",
        "farm.request",
        "farm.scheduler",
        "farm.workers",
    },
    "pool": {"farm", "farm.errors", "farm.request"},
    "batch": {
        "farm.cluster",
        "farm.contact_sheet",
        "farm.errors",
        "farm.inputs",
        "farm.plan",
        "farm.progress",
        "farm.request",
        "farm.store",
        "farm.summary",
        "svd_engine.arguments",
        "svd_engine.params",
    },
}
# Files that may name these packages; every other file may not.
HOMES = {
    "ray": {"farm/cluster", "farm/pool"},
    "torch": {"farm/workers"},
    "diffusers": set(),
    "accelerate": set(),
}
UNLOADED = {
    "farm": HEAVY,
    "farm.errors": HEAVY,
    "farm.request": HEAVY,
    "farm.plan": HEAVY,
    "farm.scheduler": HEAVY,
    "farm.store": HEAVY,
    "farm.summary": HEAVY,
    "farm.batch": HEAVY,
    "svd_engine": HEAVY,
    "svd_engine.params": HEAVY,
    "svd_engine.arguments": HEAVY,
    "svd_engine.engine": {"ray", "boto3", "fastapi", "diffusers"},
    "farm.cluster": {"torch", "transformers"},
    "farm.workers": {"ray", "boto3", "fastapi", "diffusers"},
}


def modules(package: str) -> dict[str, Path]:
    root = ROOT / package
    return {str(p.relative_to(root).with_suffix("")): p for p in root.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """The modules a file imports anywhere, under their full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            found.add(node.module)
    return found


def test_every_file_of_the_farm_has_its_arrows() -> None:
    assert set(modules("farm")) == set(ALLOWED)


@pytest.mark.parametrize("name", ALLOWED)
def test_farm_imports(name: str) -> None:
    own = {m for m in imports(modules("farm")[name]) if m.split(".")[0] in ("farm", "svd_engine")}
    assert own <= ALLOWED[name]


@pytest.mark.parametrize("name", modules("svd_engine"))
def test_the_engine_knows_nothing_of_the_farm(name: str) -> None:
    roots = {m.split(".")[0] for m in imports(modules("svd_engine")[name])}
    assert not roots & {"farm", "ray", "boto3", "fastapi", "diffusers"}


@pytest.mark.parametrize("package", HOMES)
def test_homes(package: str) -> None:
    users = {
        f"farm/{name}"
        for name, path in modules("farm").items()
        if package in {m.split(".")[0] for m in imports(path)}
    }
    assert users == HOMES[package]


@pytest.mark.parametrize("module", UNLOADED)
def test_importing_leaves_unloaded(module: str) -> None:
    code = f"import sys, {module}; print(*(set(sys.modules) & {UNLOADED[module]!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_environment_is_read_in_few_places() -> None:
    """Until settings.py exists: the cache folder, and the threads of a worker process."""
    readers = {
        f"{package}/{name}"
        for package in ("farm", "svd_engine")
        for name, path in modules(package).items()
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    assert readers == {"svd_engine/tiny", "farm/pool"}
