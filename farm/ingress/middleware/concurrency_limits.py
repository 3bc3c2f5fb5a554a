"""What every request passes before the app: slots by caller; and what every answer says.

Event streams, bodies and all other requests have slots of their own, so that none of them can shut
the others out; health needs none.
"""

import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farm.ingress.access.authentication import caller_of
from farm.ingress.bodies.body import declared_length
from farm.ingress.errors import AGAIN_S, ApiError, Shape, as_api_error, path_of, shape_for
from farm.ingress.middleware.fair_slots import FullError, Slots

log = logging.getLogger("farm")

# At once, over all replicas.
STREAMS = 512
REQUESTS = 1024
BODIES = 16  # of the longest that are taken
MAX_HEADERS = 2**20  # bytes
HEALTH = ("/healthz", "/readyz")
STREAM = re.compile(r"/v1/videos/[^/]+/events/?")


class ConcurrencyLimits:
    """Let requests in as far as there are slots, and answer what went wrong in the API's shape."""

    def __init__(
        self, app: ASGIApp, shapes: Mapping[str, Shape], max_body: int, replicas: int
    ) -> None:
        self._app, self._shapes, self._max_body = app, shapes, max_body
        self._streams = Slots(STREAMS // replicas)
        self._requests = Slots(REQUESTS // replicas)
        self._bodies = Slots(BODIES * max_body // replicas)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            with ExitStack() as held:
                self._admit(scope, held)
                await self._app(scope, receive, noted)
        except Exception as error:
            told = as_api_error(error)
            if told.status == 500:
                log.error("%s %s", scope["method"], scope["path"], exc_info=error)
            if started:  # what is cut off is to look cut off
                raise
            await shape_for(scope, self._shapes)(told)(scope, receive, send)

    def _admit(self, scope: Scope, held: ExitStack) -> None:
        """Hold what the request needs; ApiError 431 or 503."""
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
                f"too many {what} at once: come again in {AGAIN_S} s",
                code="overloaded",
                headers={"Retry-After": str(AGAIN_S), "Connection": "close"},
            ) from None

    def _length(self, method: str, headers: Headers) -> int:
        """How many bytes of a body may have to be kept."""
        if method not in ("POST", "PUT", "PATCH"):
            return 0
        declared = declared_length(headers)
        if declared is None:
            return self._max_body if "transfer-encoding" in headers else 0
        return min(declared, self._max_body)
