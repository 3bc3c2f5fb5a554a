"""A request's body to its fields: multipart or JSON, as browsers, curl and OpenAI's SDK send it."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from farm.ingress.errors import ApiError, bad_request

PICTURE = "input_reference"
MAX_FIELD = 64 * 1024  # bytes of a form field that is no file
# Where a picture may come as a URL: data URLs, since no host is asked for anything yet.
URL_FIELDS = ("input_reference[image_url]", "image_url")


@dataclass(frozen=True)
class Body:
    """Fields by name, and the picture; None where there is none."""

    fields: Mapping[str, Any]
    picture: bytes | None


async def read_body(request: Request, limit: int, picture: str = PICTURE) -> Body:
    """The body, at most `limit` bytes long; ApiError 400, 413 or 415."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)  # before a byte of it is read
    _limit_stream(request, limit)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _multipart(request, picture)
    if kind == "application/json":
        return _json(await request.body(), picture)
    raise ApiError(
        415,
        f"content type {kind or 'missing'}: send multipart/form-data or application/json",
        code="unsupported_media_type",
    )


def _limit_stream(request: Request, limit: int) -> None:
    """Stop reading a body that grows past the limit, whatever its header says."""
    receive, seen = request.receive, 0

    async def limited() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    request._receive = limited


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is over {limit} bytes", code="too_large")


async def _multipart(request: Request, picture: str) -> Body:
    try:
        form = await request.form(max_files=1, max_part_size=MAX_FIELD)
    except (MultiPartException, HTTPException) as error:
        reason = error.detail if isinstance(error, HTTPException) else error.message
        raise bad_request(None, f"the form cannot be read: {reason}") from error
    fields: dict[str, Any] = {}
    data = None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != picture:
                raise bad_request(name, f"{name}: not a file field; the picture is {picture!r}")
            data = await value.read()
        elif name.endswith("[]"):
            fields.setdefault(name[:-2], []).append(value)
        elif name in fields:
            raise bad_request(name, f"{name}: given twice")
        else:
            fields[name] = value
    return _with_urls(fields, data, picture)


def _json(data: bytes, picture: str) -> Body:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_request(None, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise bad_request(None, "the body must be a JSON object")
    nested = fields.get(picture)
    if isinstance(nested, dict):
        fields |= {f"{picture}[{name}]": value for name, value in nested.items()}
        del fields[picture]
    return _with_urls(fields, None, picture)


def _with_urls(fields: dict[str, Any], data: bytes | None, picture: str) -> Body:
    """Take the picture from the field it is in."""
    reference = fields.pop("image_reference", None)  # vLLM-omni's: JSON in a text
    if reference is not None:
        fields["image_url"] = _reference(reference)
    for name in (picture, *URL_FIELDS):
        if name in fields:
            if data is not None:
                raise bad_request(name, f"{name}: the picture is given twice")
            data = _data_url(name, fields.pop(name))
    return Body(fields, data)


def _reference(value: Any) -> Any:
    try:
        return (json.loads(value) if isinstance(value, str) else value)["image_url"]
    except (ValueError, TypeError, KeyError) as error:
        message = 'image_reference: give {"image_url": "data:image/png;base64,..."}'
        raise bad_request("image_reference", message) from error


def _data_url(name: str, value: Any) -> bytes:
    head, comma, payload = value.partition(",") if isinstance(value, str) else ("", "", "")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise bad_request(
            name, f"{name}: give a file, or a data URL as in data:image/png;base64,..."
        )
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise bad_request(name, f"{name}: not base64: {error}") from error
