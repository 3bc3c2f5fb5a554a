"""The FastAPI app, built for a farm."""

from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

import svd_engine
from farm.ingress import docs, errors, health, operator, page, stability
from farm.ingress.access.keys import Keys
from farm.ingress.access.rate_limit import Rate
from farm.ingress.bodies.body import THREADS
from farm.ingress.middleware.concurrency_limits import ConcurrencyLimits
from farm.ingress.middleware.head_requests import HeadRequests
from farm.ingress.middleware.request_log import HEADER, RequestLog
from farm.ingress.middleware.request_metrics import RequestMetrics
from farm.ingress.middleware.security_headers import SecurityHeaders
from farm.ingress.openai import pictures, videos
from farm.metrics.meter import Meter
from farm.model.farm_api import FarmApi
from farm.settings import Settings
from farm.tracing import UNTRACED, Tracer

DESCRIPTION = "Pictures to videos with Stable Video Diffusion."


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's document without the 422 it adds everywhere: this API answers 400 instead."""
        document = super().openapi()
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        for operations in document["paths"].values():
            for operation in operations.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        return document


def make_app(
    farm: FarmApi,
    settings: Settings,
    replicas: int = 1,
    meter: Meter | None = None,
    tracer: Tracer = UNTRACED,
    behind_serve: bool = False,
) -> FastAPI:
    """The app for a farm. It keeps no state: any number of replicas may serve the same farm.

    meter, tracer: to be told of requests. behind_serve: whether Ray Serve is the server.
    """
    app = _App(
        title="SVD render farm",
        version=svd_engine.__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
    )
    app.state.farm, app.state.settings = farm, settings
    app.state.keys = Keys(settings)
    app.state.replicas, app.state.rates = replicas, dict[str, tuple[float, Rate]]()
    app.state.body_threads = CapacityLimiter(THREADS)
    # One at a time, since a picture or a video takes much memory.
    app.state.drawing_thread, app.state.converting_thread = CapacityLimiter(1), CapacityLimiter(1)
    app.state.long_body_thread = CapacityLimiter(1)
    shapes = {stability.BELOW: stability.refusal}
    # The middleware added last sees a request first.
    app.add_middleware(
        ConcurrencyLimits, shapes=shapes, max_body=settings.max_body, replicas=replicas
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[HEADER],
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(HeadRequests)
    if meter is not None:
        app.add_middleware(RequestMetrics, meter=meter)
    app.add_middleware(RequestLog, tracer=tracer, echoed=behind_serve)
    errors.install(app, shapes)
    for router in (
        videos.router,
        pictures.router,
        stability.router,
        operator.models,
        operator.router,
    ):
        app.include_router(router)
    docs.install(app)
    page.install(app)
    health.install(app, farm)
    return app
