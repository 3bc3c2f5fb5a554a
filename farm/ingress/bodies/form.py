"""A multipart body's parts, parsed in memory and within a limit of time."""

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
MAX_FIELD = 64 * 1024  # characters of a field that is no file
MAX_FIELDS = 2 * MAX_FIELD  # of all of them, names included, but for the long ones
CHUNK = 64 * 1024
PARSE_S = 5.0  # of a core; an honest form of 64 MB takes half a second
END = 512  # bytes of a body that hold a form's last boundary, and whatever comes after it


T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """A field; its value is text, or a file's bytes, whose name the client may have told."""

    name: str
    value: str | bytes
    filename: str = ""


def parse_form(
    data: bytes | bytearray, content_type: str, long: Collection[str] = ()
) -> list[Part]:
    """The parts in their order; ApiError 400 or 413. Blocks: it is for a thread.

    long: fields that may be as long as the form, such as a picture's data URL.
    """
    parser = MultiPartParser(
        Headers({"content-type": content_type}),
        _chunks(data),
        max_files=1,
        max_fields=MAX_PARTS,
        max_part_size=len(data),  # which fields may be so long is looked at below
    )
    parser.spool_max_size = len(data) + 1  # nothing goes to the disk
    try:
        form = _result_of(parser.parse())
    except (MultiPartException, HTTPException) as error:
        reason = error.detail if isinstance(error, HTTPException) else error.message
        raise bad_request(None, f"the form cannot be read: {reason}") from error
    parts = _parts(form, long)
    _, options = parse_options_header(content_type)
    # The parser leaves out, in silence, the field that it was at.
    if b"--" + options.get(b"boundary", b"") + b"--" not in data[-END:]:
        raise bad_request(None, "the form is cut off: its last boundary is missing")
    return parts


def _result_of(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that waits for nothing returns: an event loop for it takes a millisecond."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("the parser of forms waits for something")


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
            raise MultiPartException("it takes too long")
        yield bytes(data[start : start + CHUNK])
    yield b""
