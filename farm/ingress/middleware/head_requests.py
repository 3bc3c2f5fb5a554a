"""HEAD on everything that GET answers: the same status and headers, and no body."""

import anyio
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ASKED = "farm.head"  # in the scope of a GET that was asked for as HEAD


class HeadRequests:
    """Ask the app for GET, pass on how its answer begins, and leave the rest of it unmade."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        with anyio.CancelScope() as making:

            async def begun(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                    await send({"type": "http.response.body", "body": b""})
                    making.cancel()  # an event stream would go on for as long as its job

            await self._app({**scope, "method": "GET", _ASKED: True}, receive, begun)


def is_head(request: Request) -> bool:
    """Whether the caller wants the headers alone."""
    return _ASKED in request.scope
