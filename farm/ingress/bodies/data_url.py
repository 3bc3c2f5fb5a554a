"""Data URLs (RFC 2397) decoded to bytes, piece by piece, as leniently as clients write them.

Base64 may be wrapped, unpadded, url-safe or escaped with %; without `;base64` the data is the bytes
themselves, possibly escaped. The media type is ignored: the picture's own bytes say what it is.
"""

import binascii
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from farm.ingress.bodies.json_body import Payload

PIECE = 2**20  # bytes decoded at once: meanwhile no other thread runs
SAFE = bytes.maketrans(b"-_", b"+/")
WHITE = b" \t\r\n\f\v"
USAGE = "give a file, or a data URL as in data:image/png;base64,..."


def is_data_url(text: str) -> bool:
    """Whether the text begins as a data URL."""
    return text[:16].lstrip()[:5].lower() == "data:"


def split_data_url(url: str) -> tuple[bool, str]:
    """Whether the data is base64, and the data. Raises ValueError if this is not a data URL."""
    head, comma, data = url.partition(",")
    if not comma or not is_data_url(head):
        raise ValueError(USAGE)
    return head.rstrip().rpartition(";")[2].strip().lower() == "base64", data


def decode(data: Payload, base64: bool) -> bytes:
    """The bytes that a data URL's data encodes. Raises ValueError for malformed base64."""
    pieces = _cut(data)
    if any(b"%" in piece for piece in _cut(data)):
        pieces = _unescaped(pieces)
    return b"".join(_decoded(pieces) if base64 else pieces)


def _cut(data: Payload) -> Iterator[bytes]:
    return (bytes(data[start : start + PIECE]) for start in range(0, len(data), PIECE))


def _unescaped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    kept = b""
    for piece in pieces:
        piece = kept + piece
        half = piece.rfind(b"%", max(0, len(piece) - 2))  # an escape cut in two
        kept = piece[half:] if half >= 0 else b""
        yield unquote_to_bytes(piece[: len(piece) - len(kept)])
    yield kept


def _decoded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    kept, ended = b"", False
    for piece in pieces:
        piece = kept + piece.translate(SAFE, WHITE)
        whole = len(piece) - len(piece) % 4
        kept = piece[whole:]
        if whole:
            if ended:
                raise ValueError("it has a = before its end")
            ended = piece[whole - 1 : whole] == b"="
            yield binascii.a2b_base64(piece[:whole], strict_mode=True)
    if kept:
        if ended:
            raise ValueError("it has a = before its end")
        yield binascii.a2b_base64(kept.ljust(4, b"="), strict_mode=True)
