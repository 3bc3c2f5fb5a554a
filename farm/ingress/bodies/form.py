"""The parts of a multipart body, parsed in memory and in limited time."""

import time
from collections.abc import AsyncGenerator, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from farm.ingress.errors import ApiError, bad_request

MAX_PARTS = 200
MAX_FIELD = 64 * 1024  # characters of a field that is not a file
MAX_FIELDS = 2 * MAX_FIELD  # of all such fields, names included, except the long ones
CHUNK = 64 * 1024
PARSE_S = 5.0  # CPU time; a normal form of 64 MB takes half a second
END = 512  # bytes at the end of a body in which the final boundary must stand

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """A field: its value is text, or the bytes of a file, for which the client may give a name."""

    name: str
    value: str | bytes
    filename: str = ""


def parse_form(
    data: bytes | bytearray, content_type: str, long: Collection[str] = ()
) -> list[Part]:
    """The parts in order. Raises ApiError 400 or 413. This blocks, so call it in a thread.

    long: fields whose length is not limited, such as a picture's data URL.
    """
    parser = MultiPartParser(
        Headers({"content-type": content_type}),
        _chunks(data),
        max_files=1,
        max_fields=MAX_PARTS,
        max_part_size=len(data),  # `_parts` checks each field's length
    )
    parser.spool_max_size = len(data) + 1  # never spill to disk
    try:
        form = _result_of(parser.parse())
    except (MultiPartException, HTTPException) as error:
        reason = error.detail if isinstance(error, HTTPException) else error.message
        raise bad_request(None, f"the form cannot be read: {reason}") from error
    parts = _parts(form, long)
    _, options = parse_options_header(content_type)
    # The parser silently drops the field at which the body was cut off.
    if b"--" + options.get(b"boundary", b"") + b"--" not in data[-END:]:
        raise bad_request(None, "the form is cut off: its final boundary is missing")
    return parts


def _result_of(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits. An event loop for it would take a millisecond."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("the form parser was expected not to wait")


def _parts(form: FormData, long: Collection[str]) -> list[Part]:
    parts, size = [], 0
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            with value.file:
                parts.append(Part(name, value.file.read(), value.filename or ""))
            continue
        parts.append(Part(name, value))
        size += len(name)
        if name not in long:
            size += len(value)
            if len(value) > MAX_FIELD:
                message = f"{name[:80]}: the field is over {MAX_FIELD} characters"
                raise ApiError(413, message, code="too_large", param=name[:80])
    if size > MAX_FIELDS:
        raise ApiError(413, f"the form's fields are over {MAX_FIELDS} bytes", code="too_large")
    return parts


async def _chunks(data: bytes | bytearray) -> AsyncGenerator[bytes, None]:
    until = time.thread_time() + PARSE_S
    for start in range(0, len(data), CHUNK):
        if time.thread_time() > until:
            raise MultiPartException("parsing it takes too long")
        yield bytes(data[start : start + CHUNK])
    yield b""
