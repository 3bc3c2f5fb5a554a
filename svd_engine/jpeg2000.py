"""Tells from the headers how much memory a JPEG 2000 takes to decode (ISO/IEC 15444-1, A and I).

A decoder keeps a record of each tile, precinct and code block, and a file of a few kilobytes can
divide a picture into millions of them. Each tile has a header that may change the division.
"""

import struct
from collections.abc import Iterator

MAX_TILES = 4096  # each takes 10 kB before a pixel is decoded
# Areas as powers of two. A decoder takes 400 bytes for a code block, and 700 for a precinct.
LEAST_BLOCK = 10  # 32 x 32
LEAST_PRECINCT = 12  # 64 x 64
BYTES = 7  # per pixel of a component: 32 bits, and the records above; at least 5 were measured
MAX_HEADER = 2**20  # bytes, most of them a colour profile; Pillow parses it in Python
MAX_PIECES = 100_000

_SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9


def work_bytes(data: bytes) -> int:
    """The memory that decoding takes beside the file and the picture.

    Raises ValueError if it has no bound; struct.error or IndexError for a broken file.
    """
    start = codestream(data)
    width, height, tiles, components = _siz(data, start)
    if tiles > MAX_TILES:
        raise ValueError(f"it has {tiles} tiles, over {MAX_TILES}")
    for marker, at, length in _segments(data, start + 2):
        body = data[at + 4 : at + 2 + length]
        if marker == _COD:
            _check_cut(body[0], body[5:])
        elif marker == _COC:
            # The component's number is one byte, since at most four components are read.
            _check_cut(body[1], body[2:])
    return BYTES * components * width * height


def codestream(data: bytes) -> int:
    """Where the codestream starts: at 0, or in a box. Raises ValueError for too long a header."""
    if data.startswith(b"\xff\x4f"):
        return 0
    for name, body, length in boxes(data):
        if name == b"jp2c":
            return body
        if name == b"jp2h" and length > MAX_HEADER:
            raise ValueError(f"its header has {length} bytes, over {MAX_HEADER}")
    raise ValueError("it has no codestream")


def boxes(data: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of a file, also of an AVIF: name, start of the content, and whole length."""
    at = 0
    for _ in range(MAX_PIECES):
        if at + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        head = 16 if length == 1 else 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
        elif length == 0:
            length = len(data) - at
        yield name, at + head, length
        at += max(head, length)
    raise ValueError(f"it is in more than {MAX_PIECES} pieces")


def _siz(data: bytes, start: int) -> tuple[int, int, int, int]:
    """Width, height, tiles and components."""
    marker, _, _, *sides, components = struct.unpack_from(">HHH8IH", data, start + 2)
    right, bottom, left, top, wide, high, tiles_left, tiles_top = sides
    if marker != _SIZ or not (1 <= components <= 4 and wide and high):
        raise ValueError("its codestream does not begin with a size that can be read")
    across, down = -(-(right - tiles_left) // wide), -(-(bottom - tiles_top) // high)
    return right - left, bottom - top, across * down, components


def _segments(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """The marker, start and length of each segment, in the main header and in all tile parts."""
    part, part_bytes = 0, 0
    for _ in range(MAX_PIECES):
        if at + 4 > len(data):
            return
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _EOC:
            return
        if marker == _SOT:
            part, (part_bytes,) = at, struct.unpack_from(">I", data, at + 6)
        if marker == _SOD:
            if part_bytes <= at - part:  # 0: to the end of the file
                return
            at = part + part_bytes
            continue
        yield marker, at, length
        at += 2 + max(2, length)
    raise ValueError(f"it is in more than {MAX_PIECES} pieces")


def _check_cut(style: int, params: bytes) -> None:
    """Raise ValueError if code blocks or precincts are too small. params: from the levels on."""
    if params[1] + params[2] + 4 < LEAST_BLOCK:
        raise ValueError(
            f"its code blocks are {4 << params[1]} x {4 << params[2]}; save it with 32 x 32 or more"
        )
    levels = params[0]
    for level, each in enumerate(params[5 : 6 + levels] if style & 1 else b""):
        # Each level has a quarter of the pixels of the next one.
        if (each & 15) + (each >> 4) < LEAST_PRECINCT - 2 * (levels - level):
            raise ValueError(
                f"its precincts are {1 << (each & 15)} x {1 << (each >> 4)}; "
                "save it with 64 x 64 or more, halved from level to level"
            )
