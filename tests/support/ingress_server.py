"""The farm's HTTP server for tests, with real Ray and Serve, on a free port."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray import serve

from tests.support.ray_cluster import local_cluster


@contextmanager
def serving(store: Path | str, prefix: str = "", **settings: Any) -> Iterator[str]:
    """Serve a farm on a store, and yield its base URL. settings: farm settings, as in FARM_*."""
    values = {"store": str(store), "segment_steps": 2, "models": ["tiny", "svd"], **settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            patch.setenv(f"FARM_{name.upper()}", text)
        with local_cluster(), _served(prefix) as url:
            yield url


@contextmanager
def _served(prefix: str) -> Iterator[str]:
    from farm.ingress.serve_app import app

    port = _free_port()
    serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
    try:
        serve.run(app({}), route_prefix=prefix or "/")
        yield f"http://127.0.0.1:{port}{prefix}"
    finally:
        serve.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
