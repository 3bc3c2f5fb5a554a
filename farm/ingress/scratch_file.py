"""Files as answers: whole, in the ranges that are asked for, or 304 to whoever has them."""

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

_STATIC = StaticFiles()  # of no folder: it knows when an answer is 304


def not_modified(request: Request, headers: Mapping[str, str]) -> Response | None:
    """304, where the caller has what an answer with those headers has; else None."""
    if _STATIC.is_not_modified(Headers(headers), request.headers):
        return Response(status_code=304, headers=headers)
    return None


class _NoRangeError(Exception):
    """A Range header that is none."""


class ScratchResponse(FileResponse):
    """Bytes, sent from a file that is there as long as the answer: slow clients hold no memory.

    Errors are the API's, and a Range header that is none is ignored, as RFC 9110 has it.
    """

    def __init__(self, read: Callable[[], bytes], **options: Any) -> None:
        """read: gives the bytes, in a thread. options: FileResponse's."""
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

    def _unsatisfiable(self, told: Headers) -> ApiError:
        size = told["content-range"].rpartition("/")[2]
        headers = {"Accept-Ranges": "bytes", "Content-Range": f"bytes */{size}"}
        message = f"Range: the file has {size} bytes; ask for some of them, as in bytes=0-99"
        return ApiError(416, message, code="range_not_satisfiable", param="Range", headers=headers)
