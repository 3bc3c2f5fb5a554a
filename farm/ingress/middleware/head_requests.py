"""HEAD for every path that answers GET: the same status and headers, without a body."""

import anyio
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ROUTE = ("route", "endpoint")
_IS_HEAD = "farm.head"  # marks the scope of a GET that stands for a HEAD


class HeadRequests:
    """Call the app with GET, send the start of its answer, and cancel the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        inner: Scope = {**scope, "method": "GET", _IS_HEAD: True}
        with anyio.CancelScope() as get:

            async def send_start(message: Message) -> None:
                if message["type"] == "http.response.start":
                    # Logs and metrics name the route, which is noted in the inner scope.
                    scope.update({name: inner[name] for name in _ROUTE if name in inner})
                    await send(message)
                    await send({"type": "http.response.body", "body": b""})
                    get.cancel()  # an event stream would last as long as its job

            await self._app(inner, receive, send_start)


def is_head(request: Request) -> bool:
    """Whether the client sent HEAD, though the app sees GET."""
    return _IS_HEAD in request.scope
