"""The app on Ray Serve: `serve run farm.ingress.serve_app:app`."""

from fastapi import FastAPI
from ray import serve

from farm.ingress.app import make_app
from farm.ingress.protocol import CalledFarm
from farm.link import AsyncLink
from farm.settings import load_settings

REPLICAS = 2


def _build() -> FastAPI:
    """Evaluated in each replica."""
    settings = load_settings()
    return make_app(CalledFarm(AsyncLink(settings)), settings, REPLICAS)


_deployment = serve.deployment(
    name="Ingress",
    num_replicas=REPLICAS,
    max_ongoing_requests=1000,  # most of them wait: for news, or for a worker to stop
    ray_actor_options={"num_cpus": 0},
)
app = _deployment(serve.ingress(_build)()).bind()
