"""Reads a request's body: multipart or JSON, as browsers, curl and OpenAI's SDK send it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import Request
from starlette.datastructures import Headers

from farm.errors import OutboundError
from farm.ingress.bodies.data_url import USAGE, decode, split_data_url
from farm.ingress.bodies.form import Part, parse_form
from farm.ingress.bodies.json_body import Payload, parse_json, unescape
from farm.ingress.errors import ApiError, bad_request
from farm.net.outbound import fetch

PICTURE = "input_reference"
THREADS = 8  # that parse short bodies
# Bodies longer than LONG share one thread. Python runs one thread at a time, so several threads
# would finish no sooner, and would each delay the event loop in turn.
LONG = 2**20
IDLE_S = 30.0  # between two pieces of a body
UPLOAD_S = 600.0  # for the whole body
# The fields in which a picture may come as a URL.
REFERENCE = "image_reference"
REFERENCE_USAGE = 'give {"image_url": "data:image/png;base64,..."}'
URL_FIELDS = (
    *("input_reference[image_url]", "image_url"),
    *(REFERENCE, f"{REFERENCE}[image_url]"),
)

T = TypeVar("T")


@dataclass(frozen=True)
class Body:
    """Fields by name, and the picture's bytes, if there is one.

    filename: the picture's, if the client gave it.
    """

    fields: Mapping[str, Any]
    picture: bytes | None
    filename: str = ""


async def read_body(request: Request, limit: int, picture: str = PICTURE) -> Body:
    """The body's fields and picture. Body and picture may have at most `limit` bytes each.

    Raises ApiError 400, 408, 413 or 415.
    """
    if (declared_length(request.headers) or 0) > limit:
        raise _too_large(limit)  # without reading any of it
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise ApiError(
            415,
            f"content type {kind or 'missing'}: send multipart/form-data or application/json",
            code="unsupported_media_type",
        )
    body = await _receive(request, limit)
    file: Part | None = None
    payloads: Sequence[Payload] = ()
    if kind == "application/json":
        fields, payloads = await threaded(request, len(body), parse_json, body)
        _flatten(fields, picture)
    else:
        long = (picture, *URL_FIELDS)
        parts = await threaded(request, len(body), parse_form, body, content_type, long)
        fields, file = _fields_of(parts, picture)
    reference = fields.get(REFERENCE)
    if isinstance(reference, str):  # vLLM-omni sends JSON within a string
        fields[REFERENCE], payloads = await threaded(
            request, len(body), _parse_reference, reference, payloads
        )
    name, url = _take_url(fields, file is not None, picture)
    data = file.value if file is not None and isinstance(file.value, bytes) else None
    if name is not None and _is_http(url):
        data = await _fetch(name, url, request.app.state.settings.picture_hosts, limit)
    elif name is not None:
        data = await threaded(request, len(body), _data_url, name, url, payloads)
    return Body(fields, data, file.filename if file is not None else "")


def declared_length(headers: Headers) -> int | None:
    """The body's length by its header; None if the header is missing or malformed."""
    text = headers.get("content-length", "")
    return int(text[:18]) if text.isascii() and text.isdecimal() else None


async def threaded(request: Request, size: int, function: Callable[..., T], *arguments: Any) -> T:
    """Call the function in one of the threads for bodies of `size` bytes."""
    state = request.app.state
    limiter = state.long_body_thread if size > LONG else state.body_threads
    return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)


async def _receive(request: Request, limit: int) -> bytearray:
    """The body; at most `limit` bytes of it are read, whatever its header says."""
    body = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_S), asyncio.timeout(IDLE_S) as idle:
            async for part in request.stream():
                if len(body) + len(part) > limit:
                    raise _too_large(limit)
                body += part
                idle.reschedule(asyncio.get_running_loop().time() + IDLE_S)
    except TimeoutError as error:
        message = f"the body stalled for {IDLE_S:g} s, or took more than {UPLOAD_S:g} s"
        raise ApiError(408, message, code="timeout", headers={"Connection": "close"}) from error
    return body


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is over {limit} bytes", code="too_large")


def _fields_of(parts: Sequence[Part], picture: str) -> tuple[dict[str, Any], Part | None]:
    """The fields, and the part with the picture's file, if there is one."""
    fields: dict[str, Any] = {}
    lists: dict[str, list[str]] = {}
    file = None
    for part in parts:
        name, value = part.name, part.value
        if isinstance(value, bytes):
            if name != picture:
                raise bad_request(name, f"{name}: not a file field; the picture is {picture!r}")
            file = part
        elif name.endswith("[]"):
            lists.setdefault(name[:-2], []).append(value)
        elif name in fields:
            raise bad_request(name, f"{name}: given twice")
        else:
            fields[name] = value
    for name in lists.keys() & fields.keys():
        raise bad_request(name, f"{name}: given twice")
    return fields | lists, file


def _flatten(fields: dict[str, Any], picture: str) -> None:
    """Rename the members of a picture given as a JSON object as in forms: `picture[image_url]`."""
    nested = fields.get(picture)
    if isinstance(nested, dict):
        fields |= {f"{picture}[{name}]": value for name, value in nested.items()}
        del fields[picture]


def _parse_reference(text: str, payloads: Sequence[Payload]) -> tuple[Any, Sequence[Payload]]:
    """The object that a string of JSON holds, and the payloads that were cut out of it."""
    try:
        fields, own = parse_json(text.encode())
    except (ApiError, UnicodeEncodeError) as error:
        raise bad_request(REFERENCE, f"{REFERENCE}: {REFERENCE_USAGE}") from error
    # If the body itself was JSON, the payload was cut out then, and is still escaped.
    return fields, own or [unescape(payload) or b"" for payload in payloads]


def _take_url(fields: dict[str, Any], has_file: bool, picture: str) -> tuple[str | None, Any]:
    """Remove the picture's URL from the fields; returns its field's name and the URL, if any."""
    if (reference := fields.pop(REFERENCE, None)) is not None:
        if not isinstance(reference, dict) or "image_url" not in reference:
            raise bad_request(REFERENCE, f"{REFERENCE}: {REFERENCE_USAGE}")
        fields[REFERENCE] = reference["image_url"]
    names = [name for name in (picture, *URL_FIELDS) if name in fields]
    if not names:
        return None, None
    if has_file or len(names) > 1:
        raise bad_request(names[-1], f"{names[-1]}: the picture is given twice")
    return names[0], fields.pop(names[0])


def _is_http(url: Any) -> bool:
    return isinstance(url, str) and url[:8].lower().startswith(("http://", "https://"))


async def _fetch(name: str, url: str, hosts: Sequence[str], limit: int) -> bytes:
    if not hosts:
        message = f"{name}: this farm fetches no pictures from the web: send a file or a data URL"
        raise bad_request(name, f"{message}, or its operator may set FARM_PICTURE_HOSTS")
    try:
        return await fetch(url, hosts, limit)
    except OutboundError as error:
        raise bad_request(name, f"{name}: {error}") from error


def _data_url(name: str, value: Any, payloads: Sequence[Payload]) -> bytes:
    """The bytes of a data URL; data like `#0`, `#1` stands for a payload that was cut out."""
    try:
        if not isinstance(value, str):
            raise ValueError(USAGE)
        base64, text = split_data_url(value)
    except ValueError as error:
        raise bad_request(name, f"{name}: {error}") from error
    cut = {f"#{number}": payload for number, payload in enumerate(payloads)}
    try:
        return decode(cut[text] if text in cut else text.encode("ascii"), base64)
    except ValueError as error:  # malformed, or not ASCII
        raise bad_request(name, f"{name}: not base64: {error}") from error
