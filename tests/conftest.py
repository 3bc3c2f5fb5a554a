import os
import secrets
from collections.abc import Generator, Iterator
from contextlib import ExitStack

# The hub's client and Ray read these at import. Tests must not use the network, and must not write
# a token to the home folder.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # other tests run beside them
os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")  # ten seconds by default

from pathlib import Path
from typing import TYPE_CHECKING, Any

# Triton reads this at import. Without a GPU, its interpreter runs the kernels.
os.environ.setdefault("TRITON_INTERPRET", "0" if Path("/dev/nvidiactl").exists() else "1")

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if TYPE_CHECKING:
    from svd_engine.engine import Engine
settings.register_profile("farm", deadline=None)  # a busy machine is no failure
settings.load_profile("farm")


# With pytest-xdist each process, and all that it starts, has one core to itself, and so one thread
# for torch: threads that wait for each other on cores that others use take several times as long.
# Only Linux can bind them.
BINDS = hasattr(os, "sched_setaffinity")
ALL_CORES = os.sched_getaffinity(0) if BINDS else set[int]()
if BINDS and "PYTEST_XDIST_WORKER" in os.environ:
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(ALL_CORES)[number % len(ALL_CORES)]})

SHARED_CLUSTER = pytest.StashKey[ExitStack]()


def _shares_cluster(item: pytest.Item | None) -> bool:
    return "ray_cluster" in getattr(item, "fixturenames", ())


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks, and pytest-xdist reads groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that start Ray one after another, and those that share a cluster in a row.

    They take longest: pytest-xdist begins with them, while pytest alone has the quick tests first.
    The other tests of a file run in one process, so that they share its fixtures.
    """

    def rank(item: pytest.Item) -> int:
        return _shares_cluster(item) + (item.get_closest_marker("ray") is not None)

    for item in items:
        if _shares_cluster(item):
            item.add_marker("ray")
        group = "ray" if rank(item) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=rank, reverse="PYTEST_XDIST_WORKER" in os.environ)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """End the shared cluster once the next test has no use for it."""
    try:
        yield
    finally:
        stash = item.config.stash
        if SHARED_CLUSTER in stash and not _shares_cluster(nextitem):
            stash[SHARED_CLUSTER].close()
            del stash[SHARED_CLUSTER]


@pytest.fixture(scope="module")
def ray_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A local Ray cluster for all modules that ask for it; a module's farm ends with the module.

    The cluster's processes inherit the environment of the test that comes first, so a farm's
    settings must be passed to it.
    """
    from tests.support.ray_cluster import end_farm, local_cluster

    stash = request.config.stash
    if SHARED_CLUSTER not in stash:
        stack = ExitStack()
        stack.enter_context(local_cluster())
        stash[SHARED_CLUSTER] = stack
        request.config.add_cleanup(stack.close)  # where pytest stops before the last test
    yield
    if SHARED_CLUSTER in stash:
        end_farm()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `tiny` checkpoint."""
    from svd_engine.tiny import write_tiny

    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the random checkpoints of `reference.SPECS`, made by diffusers."""
    from tests.support.reference import SPECS, make_checkpoint

    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make_checkpoint(spec, root / name) for name, spec in SPECS.items()}


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> "Engine":
    """The engine of the checkpoint that a test module names in `NAME`."""
    from svd_engine.engine import Engine

    return Engine.from_pretrained(checkpoints[request.module.NAME])


@pytest.fixture(scope="module")
def pipeline(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Any:
    """diffusers' pipeline of the same checkpoint."""
    from tests.support.reference import load_pipeline

    return load_pipeline(checkpoints[request.module.NAME])


def draw_picture(width: int = 300, height: int = 180, seed: int = 0) -> Image.Image:
    """Draw a picture with smooth shades, edges and grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    shades = np.stack([x / width, y / height, np.sin(x / 17) * np.cos(y / 11) / 2 + 0.5], axis=-1)
    shades[height // 4 : height // 2, width // 3 : width // 2] = (0.9, 0.2, 0.1)
    shades += rng.normal(0, 0.05, shades.shape)
    return Image.fromarray((shades.clip(0, 1) * 255).astype(np.uint8))


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    return draw_picture()
