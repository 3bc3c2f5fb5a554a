"""The arrows of the house: who may import whom, and what stays unloaded."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "ray", "transformers", "boto3", "fastapi", "httpx", "httpx2"}

# What each file of the farm may import of the farm and of the engine, the lowest first.
PARAMS = "svd_engine.params"
PURE = {"farm.errors", "farm.request", "farm.plan", "farm.order", "farm.run", "farm.job"}
ALLOWED: dict[str, set[str]] = {
    "__init__": {"farm.connection", "farm.handle"},  # loaded on first use
    "errors": set(),
    "keys": set(),
    "records": {"farm.errors", PARAMS},
    "quarantine": {
        "farm.errors",
        "farm.keys",
        "farm.loop",
        "farm.records",
        "farm.request",
        "farm.store",
    },
    "salvage": {"farm.errors", "farm.job", "farm.keys", "farm.quarantine", "farm.records"}
    | {"farm.request", "farm.store", PARAMS},
    "metrics": set(),
    "request": {"svd_engine", PARAMS},
    "plan": {"farm.request"},
    "order": {"farm.plan", "farm.request"},
    "memory": {"farm.order", "farm.plan", PARAMS},
    "estimate": {"farm.plan", "farm.request"},
    "placement": {"farm.plan"},
    "words": set(),
    "filenames": set(),
    "job": {"farm.errors", "farm.keys", "farm.plan", "farm.records", "farm.request", PARAMS}
    | {"farm.filenames", "svd_engine.values"},
    "run": {"farm.plan"},
    "choice": {"farm.plan", "farm.run"},
    "scheduler": {"farm.choice", "farm.plan", "farm.run"},
    "settings": {"farm.errors", "farm.keys", "farm.request", "svd_engine.picture"},
    "store/__init__": {
        "farm.errors",
        "farm.store.known",
        "farm.store.local",
        "farm.store.protocol",
        "farm.store.s3",
    },
    "store/known": {"farm.errors", "farm.store.local", "farm.store.protocol"},
    "clock": set(),
    "owner": {"farm.clock"},
    "lease": {"farm.clock", "farm.errors", "farm.keys", "farm.owner", "farm.store"}
    | {"farm.store.protocol"},
    "ownership": {"farm.clock", "farm.errors", "farm.lease", "farm.loop", "farm.owner"}
    | {"farm.store"},
    "store/protocol": {"farm.errors"},
    "store/local": {"farm.errors", "farm.store.protocol"},
    "store/s3": {"farm.errors", "farm.store.protocol", "farm.store.s3_errors"},
    "store/s3_errors": set(),
    "previews": {"farm.keys", "farm.order", "farm.request", "farm.store"}
    | {"svd_engine.picture", "svd_engine.preview"},
    "engines": {"farm.errors", "farm.order", "farm.plan", "farm.previews", "farm.records"}
    | {"farm.request"}
    | {f"svd_engine.{name}" for name in ("checkpoint", "conditioning", "exact", "picture")}
    | {
        f"svd_engine.{name}"
        for name in ("memory_plan", "meta_stages", "optimize", "recipe", "schedule")
    }
    | {"svd_engine", "svd_engine.sharded", PARAMS},
    "workers": PURE - {"farm.run", "farm.job"}
    | {"farm.engines", "farm.keys", "farm.memory", "farm.previews", "farm.quarantine"}
    | {"farm.store"}
    | {"svd_engine", "svd_engine.conditioning"},
    "pool": PURE - {"farm.job", "farm.request"}
    | {"farm.engines", "farm.placement"}
    | {"farm.store", "svd_engine"},
    "cluster": {
        "farm.errors",
        "farm.lifeline",
        "farm.loop",
        "farm.placement",
        "farm.pool",
        "farm.request",
        "farm.engines",
        "farm.settings",
        "svd_engine.variants",
    },
    "fence": {"farm.errors", "farm.job", "farm.keys", "farm.quarantine", "farm.records"}
    | {"farm.store"},
    "leftovers": {"farm.errors", "farm.keys", "farm.store"},
    "loop": set(),
    "resolver": {"farm.errors"},
    "outbound": {"farm.errors", "farm.resolver"},
    "webhooks": {"farm.clock", "farm.errors", "farm.job", "farm.keys", "farm.loop", "farm.outbound"}
    | {"farm.quarantine", "farm.records", "farm.resolver", "farm.settings", "farm.store"},
    "places": set(),
    "gang": {"farm.order", "farm.pool", "farm.run"},
    "clips": {"farm.job", "farm.order", "farm.plan", "farm.request", "farm.run"},
    "dispatch": PURE - {"farm.request"}
    | {
        "farm.clips",
        "farm.estimate",
        "farm.fence",
        "farm.gang",
        "farm.keys",
        "farm.leftovers",
        "farm.loop",
    }
    | {"farm.pool", "farm.scheduler", "farm.store"},
    "open_jobs": {"farm.job", "farm.request"},
    "admission": {"farm.book", "farm.errors", "farm.job", "farm.open_jobs", "farm.request"}
    | {"farm.settings"},
    "event_logs": {"farm.errors", "farm.job", "farm.keys", "farm.loop", "farm.salvage"}
    | {"farm.store"},
    "tenant_index": {"farm.errors", "farm.keys", "farm.loop", "farm.store"},
    "book": {
        "farm.event_logs",
        "farm.open_jobs",
        "farm.tenant_index",
        "farm.errors",
        "farm.job",
        "farm.keys",
        "farm.loop",
        "farm.salvage",
        "farm.store",
        "svd_engine",
    },
    "sharing": {"farm.book", "farm.clips", "farm.dispatch", "farm.errors", "farm.job", "farm.keys"}
    | {"farm.loop", "farm.places", "farm.quarantine", "farm.request", "farm.run"}
    | {"farm.scheduler", "farm.store"},
    "views": {"farm.errors", "farm.quarantine"}
    | {"farm.book", "farm.job", "farm.plan", "farm.pool", "farm.scheduler", "farm.sharing"},
    "blocked": {"farm.placement", "farm.plan"},
    "upkeep": {
        "farm.blocked",
        "farm.clock",
        "farm.book",
        "farm.cluster",
        "farm.dispatch",
        "farm.errors",
        "farm.job",
    }
    | {"farm.placement", "farm.plan", "farm.pool", "farm.scheduler", "farm.settings"}
    | {"farm.sharing", "svd_engine.nearest"},
    "coordinator": {
        "farm.clock",
        "farm.admission",
        "farm.book",
        "farm.cluster",
        "farm.dispatch",
        "farm.errors",
        "farm.fence",
    }
    | {"farm.intake", "farm.job", "farm.keys", "farm.leftovers", "farm.lifeline", "farm.loop"}
    | {"farm.metrics", "farm.ownership", "farm.pictures", "farm.pool", "farm.quarantine"}
    | {"farm.request"}
    | {"farm.scheduler", "farm.settings", "farm.sharing"}
    | {"farm.upkeep", "farm.views", "farm.webhooks", "svd_engine"},
    "intake": {
        "farm.clock",
        "farm.book",
        "farm.cluster",
        "farm.errors",
        "farm.fence",
        "farm.job",
        "farm.keys",
    }
    | {"farm.loop", "farm.request", "farm.settings", "farm.store"}
    | {"farm.webhooks", "svd_engine.picture"},
    "pictures": {"farm.errors", "farm.keys", "farm.loop", "farm.quarantine", "farm.request"}
    | {"farm.store"},
    "lifeline": {"farm.errors"},
    "link": {"farm.cluster", "farm.coordinator", "farm.errors", "farm.lifeline", "farm.pool"}
    | {"farm.keys", "farm.lease", "farm.owner", "farm.settings", "farm.store", "svd_engine"},
    "client": {"farm.errors", "farm.job", "farm.request", "farm.store"},
    "picture": {"farm.errors", "svd_engine.picture"},
    "parameters": {"farm.errors", "farm.job", "farm.request", "svd_engine.arguments", PARAMS}
    | {"svd_engine.nearest", "svd_engine.values"},
    "remote": {"farm.client", "farm.errors", "farm.job", "farm.parameters"},
    "http": {"farm.errors", "farm.job", "farm.remote", "svd_engine.values"},
    "bar": {"farm.remote"},
    "handle": {"farm.bar", "farm.errors", "farm.job", "farm.remote", "svd_engine"},
    "connection": {"farm.client", "farm.cluster", "farm.errors", "farm.handle", "farm.http"}
    | {"farm.link", "farm.parameters", "farm.picture", "farm.remote", "farm.settings"},
    "source": {"farm.errors", "farm.store"},
    "table": set(),
    "manifest": {"farm.errors", "farm.table", "svd_engine.arguments", PARAMS},
    "listing": {"farm.manifest", "farm.source", "farm.words", "svd_engine.picture"},
    "inputs": {"farm.errors", "farm.listing", "farm.manifest", "farm.request", "farm.source"},
    "sweep": {"svd_engine.arguments", "svd_engine.values", PARAMS},
    "summary": {"farm.errors", "farm.request", "farm.store", "farm.sweep", "farm.words", PARAMS},
    "contact_sheet": {"farm.summary", "farm.sweep", "farm.words", PARAMS},
    "progress": {"farm.job", "farm.summary", "farm.words"},
    "batch_run": {"farm.client", "farm.errors", "farm.inputs", "farm.job", "farm.progress"}
    | {"farm.listing", "farm.request", "farm.store", "farm.summary", "farm.sweep", PARAMS},
    "dry_run": {"farm.batch_run", "farm.errors", "farm.estimate", "farm.inputs", "farm.request"}
    | {"farm.words", "svd_engine.picture", PARAMS},
    "detached": {"farm.cluster", "farm.errors", "farm.settings"},
    "batch": {"farm.batch_run", "farm.client", "farm.contact_sheet", "farm.errors", "farm.inputs"}
    | {"farm.link", "farm.progress", "farm.request", "farm.settings", "farm.store"}
    | {"farm.detached", "farm.dry_run", "farm.parameters", "farm.plan", "farm.words"}
    | {"farm.summary", "farm.sweep", "svd_engine.arguments", "svd_engine.command_line", PARAMS},
    "stored": {"farm.errors", "farm.job", "farm.keys", "farm.records", "farm.salvage"}
    | {"farm.store", "svd_engine.nearest"},
    "__main__": {"farm.client", "farm.errors", "farm.job", "farm.link", "farm.settings"}
    | {"farm.stored", "farm.words", "svd_engine.command_line", "svd_engine.nearest"},
    "simulate": {"farm.plan", "farm.placement", "farm.request", "farm.run", "farm.scheduler"}
    | {PARAMS, "svd_engine.command_line"},
    "bench_http": {"farm.ingress.serve_app"},
    "bench_start": {"farm.job", "farm.keys", "farm.link", "farm.request", "farm.settings"}
    | {"farm.store", PARAMS},
    "bench": {
        "farm.bench_http",
        "farm.bench_start",
        "farm.client",
        "farm.errors",
        "farm.job",
        "farm.link",
        "farm.order",
        "farm.plan",
        "farm.request",
    }
    | {"farm.settings", "farm.simulate", "farm.store", "svd_engine", "svd_engine.video", PARAMS}
    | {"svd_engine.command_line", "svd_engine.nearest"},
}
# The ingress knows the farm by its protocol: Ray and the coordinator are behind `serve_app` alone.
DOOR = {
    "farm.errors",
    "farm.job",
    "farm.loop",
    "farm.plan",
    "farm.request",
    "farm.settings",
    "farm.store",
}
ALLOWED |= {
    f"ingress/{name}": DOOR
    | {f"farm.ingress.{other}" for other in others.split()}
    | {"farm.ingress", "svd_engine", "svd_engine.arguments", "svd_engine.picture", PARAMS}
    | {"farm.parameters", "svd_engine.values"}
    for name, others in {
        "__init__": "",
        "errors": "",
        "protocol": "",
        "video": "",
        "access": "errors keys local rate",
        "keys": "",
        "local": "errors",
        "rate": "",
        "slots": "",
        "docs": "",
        "health": "errors protocol",
        "gate": "access body errors slots",
        "form": "errors",
        "json_body": "errors",
        "data_url": "json_body",
        "body": "data_url errors form json_body",
        "fields": "errors",
        "events": "protocol",
        "files": "errors",
        "head": "",
        "content": "errors files head protocol",
        "page": "errors content files",
        "videos": "access body content errors events fields protocol video",
        "operator": "access errors videos",
        "stability": "access body content errors fields videos",
        "app": "body gate head keys protocol rate",
    }.items()
}
ALLOWED["ingress/events"] |= {"farm.keys"}
ALLOWED["ingress/fields"] |= {"svd_engine.nearest"}
ALLOWED["ingress/body"] |= {"farm.outbound"}
ALLOWED["ingress/videos"] |= {"farm.webhooks"}
ALLOWED["ingress/serve_app"] = {"farm.ingress.access", "farm.ingress.app"} | {
    "farm.cluster",
    "farm.ingress.protocol",
    "farm.lifeline",
    "farm.link",
    "farm.settings",
}
# Files that may name these packages; every other file may not.
HOMES = {
    "ray": {
        "farm/bench",
        "farm/bench_http",
        "farm/bench_start",
        "farm/cluster",
        "farm/detached",
        "farm/ingress/serve_app",
        "farm/lifeline",
        "farm/link",
        "farm/metrics",
        "farm/pool",
    },
    "torch": {"farm/engines", "farm/previews", "farm/workers"},
    "boto3": {"farm/store/s3"},
    "httpx2": {"farm/http", "farm/outbound"},
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
    "farm.job": HEAVY,
    "farm.run": HEAVY,
    "farm.placement": HEAVY,
    "farm.lease": HEAVY,
    "farm.places": HEAVY,
    "farm.settings": HEAVY,
    "farm.client": HEAVY,
    "farm.parameters": HEAVY,
    "farm.handle": HEAVY,
    "farm.connection": HEAVY,
    "farm.http": HEAVY - {"httpx2"},
    "farm.summary": HEAVY,
    "farm.batch": HEAVY,
    "svd_engine": HEAVY,
    "svd_engine.params": HEAVY,
    "svd_engine.arguments": HEAVY,
    "svd_engine.variants": HEAVY,
    "svd_engine.recognize": HEAVY,
    "farm.stored": HEAVY,
    # boto3 may be there all the same: transformers loads accelerate, which loads it if installed.
    "svd_engine.engine": {"ray", "fastapi", "diffusers"},
    "farm.cluster": {"torch", "transformers"},
    "farm.webhooks": HEAVY - {"httpx2"},
    "farm.ingress.app": HEAVY - {"fastapi", "httpx2"},
    "farm.workers": {"ray", "fastapi", "diffusers", "transformers"},
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
    """The settings; beside them the cache folder, and the threads of a worker process.

    The bench over HTTP sets the settings of the farm that it starts.
    """
    readers = {
        f"{package}/{name}"
        for package in ("farm", "svd_engine")
        for name, path in modules(package).items()
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    assert readers - {"farm/bench_http"} == {"svd_engine/tiny", "farm/pool", "farm/settings"}
