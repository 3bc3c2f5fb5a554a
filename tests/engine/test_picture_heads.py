"""Picture headers with as many pieces as possible must not take long to check."""

import struct
import time
from collections.abc import Callable

import pytest

from svd_engine.picture_files import check_picture
from tests.engine.test_picture_metadata import chunk
from tests.picture_memory import encoded, plain
from tests.support.heic import heic

SIZE = 60_000_000  # bytes; the front door takes 64 MiB
LIMIT_S = 10.0  # of a core; it took up to minutes
JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
FTYP = struct.pack(">I4s4sI4s", 20, b"ftyp", b"jp2 ", 0, b"jp2 ")
CODESTREAM = encoded(plain("L", 9, 9), "JPEG2000", no_jp2=True).partition(b"\xff\x64")[0]
AVIF = encoded(plain("RGB", 40, 40), "AVIF")

HEIF = heic(plain("RGB", 40, 40))


def full(head: bytes, piece: bytes) -> bytes:
    return head + piece * (SIZE // len(piece))


def jp2_header() -> bytes:
    boxes = full(b"", struct.pack(">I4s", 8, b"free"))
    return JP2 + FTYP + struct.pack(">I4s", 8 + len(boxes), b"jp2h") + boxes


HEADS: dict[str, Callable[[], bytes]] = {
    "PNG, chunks": lambda: full(encoded(plain("L", 9, 9), "PNG")[:33], chunk(b"tEXt", b"")),
    "PNG, zeros": lambda: full(b"\x89PNG\r\n\x1a\n", bytes(12)),
    "JPEG, segments": lambda: full(b"\xff\xd8", b"\xff\xe1\0\2"),
    "JPEG, marks alone": lambda: full(b"\xff\xd8", b"\xff\xd0"),
    "JPEG, padding": lambda: full(b"\xff\xd8", b"\xff"),
    "JPEG, escapes": lambda: full(b"\xff\xd8", b"\xff\0"),
    "JPEG, tables": lambda: full(b"\xff\xd8", b"\xff\xc4\0\2"),
    "WebP, chunks": lambda: full(b"RIFF\0\0\0\3WEBP", b"abcd\0\0\0\0"),
    "GIF, extensions": lambda: full(b"GIF89a\5\0\5\0\0\0\0", b"!\1\0"),
    "GIF, a comment": lambda: full(b"GIF89a\5\0\5\0\0\0\0!\xfe", b"\1a"),
    "GIF, nothing": lambda: full(b"GIF89a\5\0\5\0\0\0\0", b"\1"),
    "JPEG2000, boxes": lambda: full(JP2 + FTYP, struct.pack(">I4s", 8, b"free")),
    "JPEG2000, boxes of the header": jp2_header,
    "JPEG2000, marks": lambda: full(CODESTREAM, b"\xff\x53\0\2"),
    "PPM, blanks": lambda: full(b"P6", b" "),
    "PPM, a comment": lambda: full(b"P6 #", b"a"),
    "PPM, comments": lambda: full(b"P6 ", b"#\n"),
    "TIFF, tags": lambda: full(b"II*\0\x08\0\0\0\xff\xff", struct.pack("<HHII", 256, 3, 1, 9)),
    "AVIF, items": lambda: full(AVIF[:40], b"\0\0\0\x15infe\2\0\0\0\0\1\0\0Exif\0"),
    "AVIF, boxes": lambda: full(AVIF[:32], b"\0\0\0\x08free"),
    "HEIF, items": lambda: full(HEIF[:40], b"\0\0\0\x15infe\2\0\0\0\0\1\0\0Exif\0"),
    "HEIF, boxes": lambda: full(HEIF[:24], b"\0\0\0\x08free"),
    "HEIF, a large meta": lambda: full(HEIF[:24] + struct.pack(">I4s", SIZE, b"meta"), b"\0"),
    "BMP, nothing": lambda: full(b"BM", b"\0"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_in_many_pieces_is_soon_refused(name: str) -> None:
    data = HEADS[name]()
    began = time.thread_time()
    with pytest.raises(ValueError, match=r"broken|not a picture|pixels"):
        check_picture(data)
    assert time.thread_time() - began < LIMIT_S
