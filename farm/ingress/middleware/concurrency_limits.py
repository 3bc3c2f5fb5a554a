"""Limits how many requests are served at once, in all and for each caller.

Event streams, request bodies and all other requests are limited separately, so that none of them
can shut the others out. Health probes are not limited.
"""

import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farm.ingress.access.authentication import caller_of
from farm.ingress.bodies.body import declared_length
from farm.ingress.errors import (
    RETRY_AFTER_S,
    ApiError,
    Shape,
    as_api_error,
    path_of,
    shape_for,
)
from farm.ingress.middleware.fair_slots import FullError, Slots

log = logging.getLogger("farm")

# At once, over all replicas.
STREAMS = 512
REQUESTS = 1024
BODIES = 16  # of the greatest length; shorter ones take less of the same memory
MAX_HEADERS = 2**20  # bytes
HEALTH = ("/healthz", "/readyz")
STREAM = re.compile(r"/v1/videos/[^/]+/events/?")


class ConcurrencyLimits:
    """Admit requests while there is room, and answer errors outside the routes in the API's shape.

    Middleware lies outside FastAPI's own exception handlers, so what is raised here, or by other
    middleware, is turned into an answer here.
    """

    def __init__(
        self, app: ASGIApp, shapes: Mapping[str, Shape], max_body: int, replicas: int
    ) -> None:
        """shapes: the shapes of errors, by the path below which they are used. max_body: bytes."""
        self._app, self._shapes, self._max_body = app, shapes, max_body
        self._streams = Slots(STREAMS // replicas)
        self._requests = Slots(REQUESTS // replicas)
        self._bodies = Slots(BODIES * max_body // replicas)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            with ExitStack() as held:
                self._admit(scope, held)
                await self._app(scope, receive, note_start)
        except Exception as error:
            api_error = as_api_error(error)
            if api_error.status == 500:
                log.error("%s %s", scope["method"], scope["path"], exc_info=error)
            if started:  # the server breaks the connection, so that the client notices
                raise
            await shape_for(scope, self._shapes)(api_error)(scope, receive, send)

    def _admit(self, scope: Scope, held: ExitStack) -> None:
        """Hold the slots that the request needs. Raises ApiError 431 or 503."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            message = f"the headers are over {MAX_HEADERS} bytes"
            raise ApiError(431, message, code="headers_too_large", headers={"Connection": "close"})
        path = path_of(scope)
        if path in HEALTH:
            return
        headers, state = Headers(scope=scope), scope["app"].state
        caller = caller_of(headers, state.keys)
        stream = scope["method"] == "GET" and STREAM.fullmatch(path)
        try:
            held.enter_context((self._streams if stream else self._requests).hold(caller))
            held.enter_context(self._bodies.hold(caller, self._length(scope["method"], headers)))
        except FullError:
            what = "event streams" if stream else "requests"
            raise ApiError(
                503,
                f"too many {what} at once: try again in {RETRY_AFTER_S} s",
                code="overloaded",
                headers={"Retry-After": str(RETRY_AFTER_S), "Connection": "close"},
            ) from None

    def _length(self, method: str, headers: Headers) -> int:
        """The most bytes that the request's body may occupy in memory."""
        if method not in ("POST", "PUT", "PATCH"):
            return 0
        declared = declared_length(headers)
        if declared is None:
            return self._max_body if "transfer-encoding" in headers else 0
        return min(declared, self._max_body)
