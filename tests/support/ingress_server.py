"""The farm's HTTP server for tests, with real Ray and Serve, on a free port."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray import serve

from farm.ingress import serve_app
from tests.support.ports import free_ports

NAME = "farm"


@contextmanager
def serving(
    store: Path | str,
    prefix: str = "",
    variables: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[str]:
    """Serve a farm on a store, on the cluster that this process has joined; yield its base URL.

    variables: of the environment of its processes. settings: farm settings, as in FARM_*.
    """
    values = {"store": str(store), "segment_steps": 2, "models": ["tiny", "svd"], **settings}
    environment = {
        f"FARM_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    } | dict(variables or {})
    plain = serve_app._deployment

    def configured(app: Any) -> Any:
        # The cluster is older than these settings: its processes have not inherited them.
        options = {"num_cpus": 0, "runtime_env": {"env_vars": environment}}
        return plain(app).options(ray_actor_options=options)

    with pytest.MonkeyPatch.context() as patch:
        for name, text in environment.items():
            patch.setenv(name, text)
        patch.setattr(serve_app, "_deployment", configured)
        port = start_serve()
        try:
            serve.run(serve_app.app({}), name=NAME, route_prefix=prefix or "/")
            yield f"http://127.0.0.1:{port}{prefix}"
        finally:
            serve.delete(NAME)


def start_serve() -> int:
    """Serve's port; Serve stays for as long as the cluster does."""
    client: Any = serve.context._get_global_client(raise_if_no_controller_running=False)
    if client is None:
        options = {"port": free_ports(1)[0]}
        serve.start(http_options=options, logging_config={"log_level": "ERROR"})
        client = serve.context._get_global_client()
    return int(client.http_config.port)
