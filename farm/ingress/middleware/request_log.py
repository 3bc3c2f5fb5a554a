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
from farm.tracing import Span, SpanContext, Tracer, child_of, parse_traceparent

log = logging.getLogger("farm")

HEADER = "X-Request-ID"
SHOWN = 12  # digits of a key's sha256 by which logs tell keys apart


class RequestLog:
    """Take the request's id from its header, or make one, and return it with the answer.

    Whatever is done for the request is done for its caller (`farm/caller.py`), whose key is noted
    once it is known (`note_key`). The request is a span of the trace that its `traceparent` names.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer, echoed: bool) -> None:
        """echoed: whether the server in front returns a request's header by itself, as Serve's."""
        self._app, self._tracer, self._echoed = app, tracer, echoed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, since, status = time.time(), time.monotonic(), 0
        headers = Headers(scope=scope)
        given, parent = headers.getlist(HEADER), parse_traceparent(headers.get("traceparent"))
        own = len(given) == 1 and is_request_id(given[0])
        request_id = given[0] if own else new_request_id()
        span = child_of(parent) if self._tracer.on else parent

        async def send_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not (own and self._echoed):
                    MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with called_by(_caller_of(scope, request_id, span)):
            try:
                await self._app(scope, receive, send_id)
            finally:
                seconds = time.monotonic() - since
                _log(scope, status, seconds)
                if span is not None and self._tracer.on:
                    times = began, began + seconds
                    self._tracer.export(_span(scope, span, parent, times, status))


def note_key(tenant: str, key: str) -> None:
    """Note whose key the request under way has. key: its sha256."""
    if caller := current_caller():
        set_caller(replace(caller, tenant=tenant, key=key[:SHOWN]))


def _caller_of(scope: Scope, request_id: str, span: SpanContext | None) -> Caller:
    client = name_of(str(scope["client"][0])) if scope.get("client") else ""
    return Caller("http", request_id, client, traceparent=span.traceparent if span else "")


def _log(scope: Scope, status: int, seconds: float) -> None:
    """Log a request that has ended. status: 0 if its client left before the answer began."""
    method, route = method_of(scope), route_of(scope)
    with bound(method=method, route=route, status=status, seconds=round(seconds, 4)):
        log.info("%s %s %d", method, route, status)


def _span(
    scope: Scope,
    context: SpanContext,
    parent: SpanContext | None,
    times: tuple[float, float],
    status: int,
) -> Span:
    """The span of a request that has ended, with the attributes of OpenTelemetry's conventions."""
    method, route, caller = method_of(scope), route_of(scope), current_caller()
    attributes: dict[str, str | int] = {"http.request.method": method, "http.route": route}
    if status:
        attributes["http.response.status_code"] = status
    if caller is not None:
        attributes |= {"request_id": caller.request_id, "tenant": caller.tenant}
    error = str(status) if status >= 500 else ""
    return Span(f"{method} {route}", context, parent, *times, "server", attributes, error)
