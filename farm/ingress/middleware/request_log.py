"""Gives every request an id and a caller, and logs a line for each."""

import logging
import time
from dataclasses import replace

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farm.caller import (
    Caller,
    called_by,
    current_caller,
    is_request_id,
    name_of,
    new_request_id,
    set_caller,
)
from farm.ingress.middleware.request_metrics import method_of, route_of
from farm.logs import bound

log = logging.getLogger("farm")

HEADER = "X-Request-ID"
SHOWN = 12  # digits of a key's sha256 by which logs tell keys apart


class RequestLog:
    """Take the request's id from its header, or make one, and return it with the answer.

    Whatever is done for the request is done for its caller (`farm/caller.py`), whose key is noted
    once it is known (`note_key`).
    """

    def __init__(self, app: ASGIApp, echoed: bool) -> None:
        """echoed: whether the server in front returns a request's header by itself, as Serve's."""
        self._app, self._echoed = app, echoed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.monotonic(), 0
        given = Headers(scope=scope).getlist(HEADER)
        own = len(given) == 1 and is_request_id(given[0])
        request_id = given[0] if own else new_request_id()
        client = name_of(str(scope["client"][0])) if scope.get("client") else ""

        async def send_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not (own and self._echoed):
                    MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with called_by(Caller("http", request_id, client)):
            try:
                await self._app(scope, receive, send_id)
            finally:
                _log(scope, status, time.monotonic() - began)


def note_key(tenant: str, key: str) -> None:
    """Note whose key the request under way has. key: its sha256."""
    if caller := current_caller():
        set_caller(replace(caller, tenant=tenant, key=key[:SHOWN]))


def _log(scope: Scope, status: int, seconds: float) -> None:
    """Log a request that has ended. status: 0 if its client left before the answer began."""
    method, route = method_of(scope), route_of(scope)
    with bound(method=method, route=route, status=status, seconds=round(seconds, 4)):
        log.info("%s %s %d", method, route, status)
