"""Files as answers: whole, in the ranges asked for, or 304 for a client that has them.

Starlette evaluates ranges and conditions. A clip is first copied from the store to a scratch file,
for every kind of store. The files of a folder could be sent directly, but that would be a second
path through the code, which answers 500 if a file is deleted between its lookup and its opening;
and S3 has no file to send.
"""

from collections.abc import Callable, Mapping
from tempfile import NamedTemporaryFile
from typing import IO, Any

import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from farm.ingress.errors import ApiError

_STATIC = StaticFiles()  # serves no folder: only its evaluation of conditions is used


def not_modified(request: Request, headers: Mapping[str, str]) -> Response | None:
    """Return 304 if the caller already has the answer with these headers; None otherwise."""
    if _STATIC.is_not_modified(Headers(headers), request.headers):
        return Response(status_code=304, headers=headers)
    return None


class _NoRangeError(Exception):
    """A malformed Range header."""


class ScratchResponse(FileResponse):
    """Bytes, sent from a scratch file that exists as long as the answer.

    Slow clients therefore hold no memory. Errors have the API's shape, and a malformed Range header
    is ignored, as RFC 9110 demands.
    """

    def __init__(self, read: Callable[[], bytes], **options: Any) -> None:
        """read: returns the bytes; it runs in a thread. options: those of FileResponse."""
        super().__init__("", **options)
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        with NamedTemporaryFile(prefix="farm-answer-") as file:
            await anyio.to_thread.run_sync(self._fill, file)
            self.path = file.name
            await self._send_ranges(scope, receive, send)

    def _fill(self, file: IO[bytes]) -> None:
        file.write(self._read())
        file.flush()

    async def _send_ranges(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 400:
                    raise _NoRangeError
                if message["status"] == 416:
                    raise self._unsatisfiable(Headers(raw=message["headers"]))
            await send(message)

        try:
            await super().__call__(scope, receive, checked)
        except _NoRangeError:
            whole = [header for header in scope["headers"] if header[0] != b"range"]
            await super().__call__({**scope, "headers": whole}, receive, send)

    def _unsatisfiable(self, answer: Headers) -> ApiError:
        size = answer["content-range"].rpartition("/")[2]
        headers = {"Accept-Ranges": "bytes", "Content-Range": f"bytes */{size}"}
        message = f"Range: the file has {size} bytes; ask for a part of them, as in bytes=0-99"
        return ApiError(416, message, code="range_not_satisfiable", param="Range", headers=headers)
