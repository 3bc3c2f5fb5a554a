"""A request's body to its fields: multipart or JSON, as browsers, curl and OpenAI's SDK send it."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from farm.errors import OutboundError
from farm.ingress.errors import ApiError, bad_request
from farm.outbound import fetch

PICTURE = "input_reference"
MAX_FIELD = 64 * 1024  # bytes of a form field that is no file
END = 512  # bytes of a body that hold a form's last boundary, and whatever comes after it
# Where a picture may come as a URL.
URL_FIELDS = ("input_reference[image_url]", "image_url", "image_reference")


@dataclass(frozen=True)
class Body:
    """Fields by name, and the picture; None where there is none."""

    fields: Mapping[str, Any]
    picture: bytes | None


async def read_body(request: Request, limit: int, picture: str = PICTURE) -> Body:
    """The body, at most `limit` bytes long, as is a picture elsewhere; ApiError 400, 413 or 415."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)  # before a byte of it is read
    end = _limit_stream(request, limit)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        fields, data = await _multipart(request, picture, end)
    elif kind == "application/json":
        fields, data = _json(await request.body(), picture), None
    else:
        raise ApiError(
            415,
            f"content type {kind or 'missing'}: send multipart/form-data or application/json",
            code="unsupported_media_type",
        )
    name, url = _take_url(fields, data, picture)
    if name is not None:
        data = await _picture_at(name, url, request.app.state.settings.picture_hosts, limit)
    return Body(fields, data)


def _limit_stream(request: Request, limit: int) -> bytearray:
    """Stop reading a body that grows past the limit, whatever its header says.

    What is returned holds the body's last bytes, once it is read.
    """
    receive, seen, end = request.receive, 0, bytearray()

    async def limited() -> Any:
        nonlocal seen
        message = await receive()
        part = message.get("body", b"")
        seen += len(part)
        if seen > limit:
            raise _too_large(limit)
        end.extend(part[-END:])
        del end[:-END]
        return message

    request._receive = limited
    return end


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is over {limit} bytes", code="too_large")


async def _multipart(
    request: Request, picture: str, end: bytearray
) -> tuple[dict[str, Any], bytes | None]:
    try:
        form = await request.form(max_files=1, max_part_size=MAX_FIELD)
    except (MultiPartException, HTTPException) as error:
        reason = error.detail if isinstance(error, HTTPException) else error.message
        raise bad_request(None, f"the form cannot be read: {reason}") from error
    _, options = parse_options_header(request.headers["content-type"])
    # The parser leaves out, in silence, the field that it was at.
    if b"--" + options.get(b"boundary", b"") + b"--" not in end:
        raise bad_request(None, "the form is cut off: its last boundary is missing")
    return await _fields_of(form, picture)


async def _fields_of(form: FormData, picture: str) -> tuple[dict[str, Any], bytes | None]:
    fields: dict[str, Any] = {}
    lists: dict[str, list[str]] = {}
    data = None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != picture:
                raise bad_request(name, f"{name}: not a file field; the picture is {picture!r}")
            data = await value.read()
        elif name.endswith("[]"):
            lists.setdefault(name[:-2], []).append(value)
        elif name in fields:
            raise bad_request(name, f"{name}: given twice")
        else:
            fields[name] = value
    for name in lists.keys() & fields.keys():
        raise bad_request(name, f"{name}: given twice")
    return fields | lists, data


def _json(data: bytes, picture: str) -> dict[str, Any]:
    try:
        fields = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise bad_request(None, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise bad_request(None, "the body must be a JSON object")
    nested = fields.get(picture)
    if isinstance(nested, dict):
        fields |= {f"{picture}[{name}]": value for name, value in nested.items()}
        del fields[picture]
    return fields


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise bad_request(name, f"{name}: given twice")
            seen.add(name)
    return fields


def _take_url(fields: dict[str, Any], data: bytes | None, picture: str) -> tuple[str | None, Any]:
    """Take the picture's URL from the field it is in; that field's name, None without one."""
    reference = fields.pop("image_reference", None)  # vLLM-omni's: JSON in a text
    if reference is not None:
        fields["image_reference"] = _reference(reference)
    names = [name for name in (picture, *URL_FIELDS) if name in fields]
    if not names:
        return None, None
    if data is not None or len(names) > 1:
        raise bad_request(names[-1], f"{names[-1]}: the picture is given twice")
    return names[0], fields.pop(names[0])


def _reference(value: Any) -> Any:
    try:
        return (json.loads(value) if isinstance(value, str) else value)["image_url"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        message = 'image_reference: give {"image_url": "data:image/png;base64,..."}'
        raise bad_request("image_reference", message) from error


async def _picture_at(name: str, url: Any, hosts: Sequence[str], limit: int) -> bytes:
    if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
        return _data_url(name, url)
    if not hosts:
        message = f"{name}: this farm fetches nothing from the web: send a file or a data URL"
        raise bad_request(name, f"{message}, or its operator may set FARM_PICTURE_HOSTS")
    try:
        return await fetch(url, hosts, limit)
    except OutboundError as error:
        raise bad_request(name, f"{name}: {error}") from error


def _data_url(name: str, value: Any) -> bytes:
    head, comma, payload = value.partition(",") if isinstance(value, str) else ("", "", "")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise bad_request(
            name, f"{name}: give a file, or a data URL as in data:image/png;base64,..."
        )
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:  # binascii's, or of what is not ASCII
        raise bad_request(name, f"{name}: not base64: {error}") from error
