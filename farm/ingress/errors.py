"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}."""

import logging
import math
from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from farm.errors import (
    FarmError,
    JobError,
    QueueFullError,
    RequestError,
    StoreError,
    WorkerError,
)

log = logging.getLogger("farm")

AGAIN_S = 5  # told where nobody knows when it will be better
MAX_TOLD = 1000  # characters of a message: it repeats what was given

Shape = Callable[["ApiError"], JSONResponse]


class ErrorDetail(BaseModel):
    """What was wrong, which parameter, and a word for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not 2xx or 3xx."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, _told(message), code
        self.param = None if param is None else _told(param)
        self.headers = dict(headers or {})


def _told(text: str) -> str:
    """A text that can be sent: not too long, and without the lone surrogates that JSON can hold."""
    short = text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}..."
    return short.encode(errors="backslashreplace").decode()


def bad_request(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """400, for a parameter."""
    return ApiError(400, message, code=code, param=param)


def no_video(job: str) -> ApiError:
    """404: there is none, or it is another tenant's."""
    return ApiError(404, f"there is no video {job!r}", code="not_found", param="video_id")


def api_error(error: FarmError) -> ApiError:
    """What a farm's error is over HTTP."""
    if isinstance(error, RequestError):
        return ApiError(400, str(error), code="invalid_value")
    if isinstance(error, QueueFullError):
        wait = {"Retry-After": str(math.ceil(error.retry_after_s))}
        return ApiError(429, str(error), code="queue_full", headers=wait)
    if isinstance(error, JobError):
        return ApiError(409, str(error), code="conflict")
    if isinstance(error, (StoreError, WorkerError)):
        again = {"Retry-After": str(AGAIN_S)}
        told = public(error) if isinstance(error, StoreError) else str(error)
        return ApiError(503, told, code="unavailable", headers=again)
    return ApiError(500, str(error), code="internal")


def public(error: StoreError) -> str:
    """What is wrong with the store, without its places: those are the operator's."""
    return f"the farm's store: {error.reason}; try again later"


def responses(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The errors of an operation, for its OpenAPI."""
    return {status: {"model": ErrorBody} for status in statuses}


def install(app: FastAPI, shapes: Mapping[str, Shape]) -> None:
    """Answer every error in this shape; below the paths of `shapes`, in theirs."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        told = as_api_error(error)
        if told.status == 500:
            log.error("%s %s", request.method, request.url.path, exc_info=error)
        return shape_for(request.scope, shapes)(told)

    for kind in (ApiError, FarmError, RequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, answer)


def path_of(scope: Scope) -> str:
    """The path that the app's routes know: without the prefix that it is served below."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if path.startswith(f"{root}/") else path


def shape_for(scope: Scope, shapes: Mapping[str, Shape]) -> Shape:
    """How errors look at a path."""
    path = path_of(scope)
    return next((shape for below, shape in shapes.items() if path.startswith(below)), openai_error)


def as_api_error(error: Exception) -> ApiError:
    """Whatever was raised, as an answer."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, FarmError):
        return api_error(error)
    if isinstance(error, RequestValidationError):
        fault = error.errors()[0]
        param = str(fault["loc"][-1])
        return bad_request(param, f"{param}: {fault['msg']}, got {fault['input']!r}")
    if isinstance(error, ClientDisconnect):  # nobody hears it; the log need not
        return bad_request(None, "the body ended before its length")
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        return ApiError(error.status_code, error.detail, code=code, headers=error.headers)
    return ApiError(500, "an error in the farm; its log says more", code="internal")


def openai_error(error: ApiError) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    detail = ErrorDetail(message=error.message, type=kind, param=error.param, code=error.code)
    # OpenAI's client tries again after 408, 409, 429 and 5xx, unless it is told not to.
    lasts = error.status in (400, 401, 403, 404, 409, 413, 422)
    headers = {"x-should-retry": "false"} if lasts else {}
    return JSONResponse(
        ErrorBody(error=detail).model_dump(), error.status, headers=headers | error.headers
    )
