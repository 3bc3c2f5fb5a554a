"""Counts HTTP requests, and measures how long their answers take to begin."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farm.metrics import catalogue
from farm.metrics.meter import Meter

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER = "other"  # any other method: clients may send any word
NO_ROUTE = "none"  # of a request that was refused before it was routed, or whose path is unknown


class RequestMetrics:
    """Report every request to a meter, by its route and not by its path, of which there are many.

    An answer may last for as long as the client reads it, so its time is that until it begins.
    """

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app, self._meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        began = time.monotonic()

        async def report(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = time.monotonic() - began
                method, route = method_of(scope), route_of(scope)
                status = str(message["status"])
                self._meter.add(catalogue.HTTP_REQUESTS, method=method, route=route, status=status)
                self._meter.observe(catalogue.HTTP_SECONDS, took, route=route)
            await send(message)

        await self._app(scope, receive, report if scope["type"] == "http" else send)


def method_of(scope: Scope) -> str:
    """The request's method, or `other`."""
    return scope["method"] if scope["method"] in METHODS else OTHER


def route_of(scope: Scope) -> str:
    """The path of a request's route, with its parameters' names in place of their values."""
    if "route" in scope:
        return str(scope["route"].path)
    if "endpoint" not in scope:
        return NO_ROUTE
    # Starlette, unlike FastAPI, names only the endpoint.
    routes = (route for route in scope["app"].routes if hasattr(route, "endpoint"))
    return next((r.path for r in routes if r.endpoint == scope["endpoint"]), NO_ROUTE)
