"""A JSON body: small but for its data URLs, whose payloads the parser never sees.

Python's parser keeps all other threads waiting, for seconds where there are megabytes to parse. So
payloads are cut out of the text before, and decoded piece by piece.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from farm.ingress.errors import ApiError, bad_request
from svd_engine.values import LONGEST

MAX_JSON = 128 * 1024  # bytes beside the payloads
MARK = re.compile(rb'data:[^,"]{0,200},', re.IGNORECASE)
# Whole characters and escapes, as many as there are: where a string may be cut in pieces.
ESCAPES = re.compile(rb"(?:[^\\]++|\\u[0-9A-Fa-f]{4}|\\[^u])*+", re.DOTALL)
PIECE = 2**20  # bytes unescaped at once, all other threads waiting
SHORT = 4096  # bytes of a payload that stays where it is
MOST = 4  # payloads; a picture is given once

Payload = bytes | memoryview  # of base64; mostly where the body has it, since it is not copied


def parse_json(data: bytes | bytearray) -> tuple[dict[str, Any], Sequence[Payload]]:
    """The fields, and the payloads that `#0`, `#1`, ... stand for in them; ApiError 400 or 413."""
    text, payloads = _cut(data)
    try:
        # NaN and what is too large are refused by name, where parameters are read.
        fields = json.loads(text, object_pairs_hook=_once, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise bad_request(None, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise bad_request(None, "the body must be a JSON object")
    return fields, payloads


def _cut(data: bytes | bytearray) -> tuple[bytes, list[Payload]]:
    """The text without its long payloads, and these. Each byte is looked at a few times at most."""
    kept, payloads = list[bytes](), list[Payload]()
    start = size = at = 0  # of what is not in `kept` yet; bytes that are; where to look on
    # Past MAX_JSON bytes of text it is refused in any case.
    while len(payloads) < MOST and (mark := MARK.search(data, at, start + MAX_JSON - size + 1)):
        at = begin = mark.end()
        end = data.find(b'"', begin)
        if end < 0:
            end = len(data)
        nested = data[end - 1 : end] == b"\\"  # the quote of a JSON that is in a text
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
            413, f"the JSON is over {MAX_JSON} bytes beside its data URL", code="too_large"
        )
    return b"".join(kept) + bytes(data[start:]), payloads


def unescape(text: Payload) -> bytes | None:
    """The text that a string of JSON has, which escapes `/` in PHP, `+` in .NET, and line ends.

    None where it is none, or not ASCII.
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
