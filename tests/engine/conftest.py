"""Engines of two random checkpoints, and right traces of theirs, for the tests of conformance."""

from pathlib import Path

import pytest
from PIL import Image

from svd_engine import Engine
from svd_engine.conformance.traces import Trace
from tests.conftest import draw_picture
from tests.support.traced import NAMES, params_of, trace


@pytest.fixture(scope="session")
def large_picture() -> Image.Image:
    """Large enough to be blurred for CLIP."""
    return draw_picture(640, 400)


@pytest.fixture(scope="session")
def engines(checkpoints: dict[str, Path]) -> dict[str, Engine]:
    return {name: Engine.from_pretrained(checkpoints[name]) for name in NAMES}


@pytest.fixture(scope="session")
def right(engines: dict[str, Engine], large_picture: Image.Image) -> dict[str, Trace]:
    return {
        name: trace(engine, large_picture, params_of(name, engine))
        for name, engine in engines.items()
    }
