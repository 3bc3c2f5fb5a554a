"""The app on Ray Serve: `serve run farm.ingress.serve_app:app`."""

import sys
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions

from farm.background import end_process
from farm.client.proxy import FarmProxy
from farm.client.ray_link import RayLink
from farm.ingress.access.authentication import check_host
from farm.ingress.app import make_app
from farm.logs import log_to_stderr
from farm.metrics.ray_meter import RayMeter
from farm.settings import (
    handed_on,
    known_secrets,
    load_settings,
    ray_address,
    set_ray_address,
    traces_endpoint,
)
from farm.tracing import open_tracer
from farm.workers.cluster import answers, check_token, running_cluster
from farm.workers.lifeline import lifeline

REPLICAS = 2
PATIENCE_S = 30.0  # for a coordinator that does not answer; then the client gets 503


def _build(given: dict[str, Any]) -> FastAPI:
    """The app; called in each replica. given: as for `load_settings`."""
    settings = load_settings(**given)
    log_to_stderr(settings.log_format, known_secrets(settings))
    check_token()
    # Serve has no public way to ask for the address it listens at.
    client: Any = serve.context._get_global_client()
    check_host(client.http_config.host, settings)
    farm = FarmProxy(RayLink(settings, lifeline(on_dead=end_process), PATIENCE_S), "http")
    tracer = open_tracer("svd-farm-http", traces_endpoint())
    return make_app(farm, settings, REPLICAS, RayMeter(), tracer, behind_serve=True)


_deployment = serve.deployment(
    name="Ingress",
    num_replicas=REPLICAS,
    # More than ConcurrencyLimits admits: requests that queue in Serve's proxy would delay probes.
    max_ongoing_requests=10_000,
    ray_actor_options={"num_cpus": 0},
)


def app(_arguments: dict[str, str]) -> serve.Application:
    """The Serve application. `serve run` calls this before it joins or starts a cluster.

    The settings that are given here, by the environment or a file, hold in all replicas. Others
    come from a replica's own environment, which it has from `ray start`.
    """
    given = handed_on(load_settings())
    if not ray.is_initialized() and not ray_address():
        port = HTTPOptions().port
        if answers(f"127.0.0.1:{port}"):  # both would listen, and share the requests
            sys.exit(
                f"port {port} of this machine is in use, perhaps by another `serve run`: stop that "
                "one, or use it"
            )
        if found := running_cluster():
            set_ray_address(found)
    return _deployment(serve.ingress(lambda: _build(given))()).bind()
