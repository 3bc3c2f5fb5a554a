"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}."""

import logging
import math
from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from farm.errors import (
    FarmError,
    JobError,
    QueueFullError,
    QuotaError,
    RequestError,
    StoreError,
    WorkerError,
)
from farm.model.wire import ErrorBody, ErrorDetail

log = logging.getLogger("farm")

RETRY_AFTER_S = 5  # suggested when the farm cannot tell how long a condition lasts
MAX_MESSAGE = 1000  # characters: a message may quote what the client sent

Shape = Callable[["ApiError"], JSONResponse]


class ApiError(Exception):
    """An error answer, raised anywhere while a request is served."""

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
        self.status, self.message, self.code = status, _sendable(message), code
        self.param = None if param is None else _sendable(param)
        self.headers = dict(headers or {})


def _sendable(text: str) -> str:
    """The text, cut to MAX_MESSAGE, and without lone surrogates, which UTF-8 cannot encode."""
    short = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
    return short.encode(errors="backslashreplace").decode()


def bad_request(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """400 for a parameter, or for the whole body if `param` is None."""
    return ApiError(400, message, code=code, param=param)


def no_video(job: str) -> ApiError:
    """404: there is no such video, or it is another tenant's."""
    return ApiError(404, f"there is no video {job!r}", code="not_found", param="video_id")


def api_error(error: FarmError) -> ApiError:
    """The HTTP error for a farm's error."""
    if isinstance(error, RequestError):
        return ApiError(400, str(error), code="invalid_value")
    if isinstance(error, QueueFullError):
        wait = {"Retry-After": str(math.ceil(error.retry_after_s))}
        return ApiError(429, str(error), code="queue_full", headers=wait)
    if isinstance(error, QuotaError):
        return ApiError(403, str(error), code="quota_exceeded")
    if isinstance(error, JobError):
        return ApiError(409, str(error), code="conflict")
    if isinstance(error, (StoreError, WorkerError)):
        wait = {"Retry-After": str(RETRY_AFTER_S)}
        message = public(error) if isinstance(error, StoreError) else str(error)
        return ApiError(503, message, code="unavailable", headers=wait)
    return ApiError(500, str(error), code="internal")


def public(error: StoreError) -> str:
    """What is wrong with the store, without its paths and hosts, which only operators may see."""
    return f"the farm's store: {error.reason}; try again later"


def responses(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The errors of an operation, for its OpenAPI document."""
    return {status: {"model": ErrorBody} for status in statuses}


def install(app: FastAPI, shapes: Mapping[str, Shape]) -> None:
    """Answer errors in OpenAI's shape, or below a path of `shapes` in the shape given there."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        api_error = as_api_error(error)
        if api_error.status == 500:
            log.error("%s %s", request.method, request.url.path, exc_info=error)
        return shape_for(request.scope, shapes)(api_error)

    for kind in (ApiError, FarmError, RequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, answer)


def path_of(scope: Scope) -> str:
    """The path as the app's routes know it: without the prefix that the app is served below."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if path.startswith(f"{root}/") else path


def shape_for(scope: Scope, shapes: Mapping[str, Shape]) -> Shape:
    """The shape of errors for a request's path."""
    path = path_of(scope)
    return next((shape for below, shape in shapes.items() if path.startswith(below)), openai_error)


def as_api_error(error: Exception) -> ApiError:
    """Any exception as an error answer; 500 for an unexpected one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, FarmError):
        return api_error(error)
    if isinstance(error, RequestValidationError):
        fault = error.errors()[0]
        param = str(fault["loc"][-1])
        return bad_request(param, f"{param}: {fault['msg']}, got {fault['input']!r}")
    if isinstance(error, ClientDisconnect):  # nobody reads the answer, and it is not worth a log
        return bad_request(None, "the body ended before its length")
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        return ApiError(error.status_code, error.detail, code=code, headers=error.headers)
    return ApiError(500, "an internal error; the farm's log has the details", code="internal")


def openai_error(error: ApiError) -> JSONResponse:
    """An error in OpenAI's shape."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    detail = ErrorDetail(message=error.message, type=kind, param=error.param, code=error.code)
    # OpenAI's client retries after 408, 409, 429 and 5xx unless this header forbids it.
    permanent = error.status in (400, 401, 403, 404, 409, 413, 422)
    headers = {"x-should-retry": "false"} if permanent else {}
    return JSONResponse(
        ErrorBody(error=detail).model_dump(), error.status, headers=headers | error.headers
    )
