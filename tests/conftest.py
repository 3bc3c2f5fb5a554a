import os
import secrets
from collections.abc import Iterator

# The hub's client and Ray read these at import. Tests must not use the network, and must not write
# a token to the home folder.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

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


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start Ray by a fixture, and run all that start Ray last."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster for a module's tests."""
    from tests.support.ray_cluster import local_cluster

    with local_cluster():
        yield


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
