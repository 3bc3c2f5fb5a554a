"""A JSON body: small but for its data URLs, whose payloads the parser never sees.

Python's parser keeps all other threads waiting, for seconds where there are megabytes to parse. So
payloads are cut out of the text before, and decoded piece by piece.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from farm.ingress.errors import ApiError, bad_request

MAX_JSON = 128 * 1024  # bytes beside the payloads
MARK = b";base64,"
SHORT = 4096  # bytes of a payload that stays where it is
MOST = 4  # payloads; a picture is given once
LONGEST = 400  # digits of a number

Payload = bytes | memoryview  # of base64; mostly where the body has it, since it is not copied


def parse_json(data: bytes | bytearray) -> tuple[dict[str, Any], Sequence[Payload]]:
    """The fields, and the payloads that `#0`, `#1`, ... stand for in them; ApiError 400 or 413."""
    text, payloads = _cut(data)
    try:
        fields = json.loads(
            text, object_pairs_hook=_once, parse_int=_whole, parse_constant=_no_number
        )
    except (ValueError, RecursionError) as error:
        raise bad_request(None, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise bad_request(None, "the body must be a JSON object")
    for name, value in fields.items():
        if not _is_finite(value):
            raise bad_request(name, f"{name}: has a number that JSON has not, or that is too large")
    return fields, payloads


def _cut(data: bytes | bytearray) -> tuple[bytes, list[Payload]]:
    """The text without its long payloads, and these. Each byte is looked at a few times at most."""
    kept, payloads = list[bytes](), list[Payload]()
    start = size = 0  # of what is not in `kept` yet; bytes that are
    at = data.find(MARK)
    while at >= 0 and len(payloads) < MOST and size + at - start <= MAX_JSON:
        begin, end = at + len(MARK), data.find(b'"', at)
        if end < 0:
            end = len(data)
        elif data[end - 1 : end] == b"\\":  # of JSON in a text
            end -= 1
        if end - begin <= SHORT:
            at = data.find(MARK, begin)
            continue
        payload: Payload = memoryview(data)[begin:end]
        if data.find(b"\\", begin, end) >= 0:
            payload = bytes(payload).replace(b"\\/", b"/")  # as PHP writes it
        if isinstance(payload, memoryview) or b"\\" not in payload:
            kept.append(bytes(data[start:begin]) + b"#%d" % len(payloads))
            size += len(kept[-1])
            payloads.append(payload)
            start = end
        at = data.find(MARK, end)
    if size + len(data) - start > MAX_JSON:
        raise ApiError(
            413, f"the JSON is over {MAX_JSON} bytes beside its data URL", code="too_large"
        )
    return b"".join(kept) + bytes(data[start:]), payloads


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
    return int(digits) if len(digits) <= LONGEST else math.inf


def _no_number(_name: str) -> float:
    """NaN or Infinity, which Python's parser takes."""
    return math.nan


def _is_finite(value: Any) -> bool:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, float) and not math.isfinite(each):
            return False
        if isinstance(each, (dict, list)):
            left += each.values() if isinstance(each, dict) else each
    return True
