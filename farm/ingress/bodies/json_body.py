"""A JSON body: small, except for the payloads of data URLs, which are cut out before parsing.

Python's JSON parser holds the interpreter's lock, for seconds if it parses megabytes. So payloads
are taken out of the text first, and decoded piece by piece.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from farm.ingress.errors import ApiError, bad_request
from svd_engine.values import LONGEST

MAX_JSON = 128 * 1024  # bytes without the payloads
MARK = re.compile(rb'data:[^,"]{0,200},', re.IGNORECASE)
# As many whole characters and escapes as possible: a string may be cut after them.
ESCAPES = re.compile(rb"(?:[^\\]++|\\u[0-9A-Fa-f]{4}|\\[^u])*+", re.DOTALL)
PIECE = 2**20  # bytes unescaped at once: meanwhile no other thread runs
SHORT = 4096  # bytes; a payload up to this length stays in the text
MOST = 4  # payloads; a request needs one

Payload = bytes | memoryview  # of base64; a memoryview of the body if it needs no unescaping


def parse_json(data: bytes | bytearray) -> tuple[dict[str, Any], Sequence[Payload]]:
    """The fields, and the payloads that `#0`, `#1`, ... replace. Raises ApiError 400 or 413."""
    text, payloads = _cut(data)
    try:
        # NaN and numbers out of range are refused where parameters are read, which names them.
        fields = json.loads(text, object_pairs_hook=_once, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise bad_request(None, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise bad_request(None, "the body must be a JSON object")
    return fields, payloads


def _cut(data: bytes | bytearray) -> tuple[bytes, list[Payload]]:
    """The text without its long payloads, and the payloads, in time linear in the body's length."""
    kept, payloads = list[bytes](), list[Payload]()
    start = 0  # of the text that is not in `kept` yet
    size = 0  # bytes in `kept`
    at = 0  # where the search continues
    # Text beyond MAX_JSON bytes need not be searched: such a body is refused.
    while len(payloads) < MOST and (mark := MARK.search(data, at, start + MAX_JSON - size + 1)):
        at = begin = mark.end()
        end = data.find(b'"', begin)
        if end < 0:
            end = len(data)
        nested = data[end - 1 : end] == b"\\"  # JSON within a JSON string
        if end - nested - begin <= SHORT:
            continue
        found = memoryview(data)[begin : end - nested]
        escaped = data.find(b"\\", begin, end - nested) >= 0
        payload = unescape(found) if escaped else found
        if payload is not None:
            kept.append(bytes(data[start:begin]) + b"#%d" % len(payloads))
            size += len(kept[-1])
            payloads.append(payload)
            start = end - nested
        at = end
    if size + len(data) - start > MAX_JSON:
        raise ApiError(
            413, f"the JSON is over {MAX_JSON} bytes without its data URL", code="too_large"
        )
    return b"".join(kept) + bytes(data[start:]), payloads


def unescape(text: Payload) -> bytes | None:
    """The content of a JSON string, in which PHP escapes `/`, .NET `+`, and everyone line ends.

    None if it is malformed, or not ASCII.
    """
    plain, at = list[bytes](), 0
    while at < len(text):
        found = ESCAPES.match(text, at, at + PIECE)
        end = found.end() if found else at
        try:
            plain.append(json.loads(b'"%b"' % bytes(text[at:end])).encode("ascii"))
        except ValueError:
            return None
        if end == at:
            return None
        at = end
    return b"".join(plain)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise bad_request(name, f"{name}: given twice")
            seen.add(name)
    return fields


def _whole(digits: str) -> float:
    return int(digits) if len(digits) <= LONGEST else float(digits)
