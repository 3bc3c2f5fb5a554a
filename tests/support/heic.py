"""HEIC files like those that phones write: x265 encodes the pixels, this module makes the boxes."""

import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from struct import pack, unpack_from

from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

PIXELS, FIRST_TILE, METADATA = 1, 10, 5  # the numbers of items

Item = tuple[int, bytes, bytes, Sequence[int]]  # number, type, content, properties


def heic(
    image: Image.Image,
    *,
    turn: int = 0,
    mirror: int | None = None,
    exif: bytes = b"",
    brand: bytes = b"heic",
    tile: int = 0,
    pixel_format: str = "yuv420p",
    claims: tuple[int, int] | None = None,
) -> bytes:
    """A HEIC file with one still picture.

    turn, mirror: quarter turns counter-clockwise, and the axis of a reflection, which the viewer is
    to apply. tile: the side of the squares that the picture is cut into, as on phones. claims: a
    wrong size to put into the header.
    """
    size = claims or image.size
    common = [_box(b"irot", bytes([turn]))] if turn else []
    common += [_box(b"imir", bytes([mirror]))] if mirror is not None else []
    if tile:
        items, boxes, tiles = _grid(image, tile, pixel_format, size, common)
    else:
        header, frame = _encode(image, pixel_format)
        boxes = [header, _ispe(*size), *common]
        items, tiles = [(PIXELS, b"hvc1", frame, range(1, 1 + len(boxes)))], []
    if exif:
        items.append((METADATA, b"Exif", pack(">I", 0) + exif, ()))
    return _file(items, boxes, tiles, brand)


def _grid(
    image: Image.Image, side: int, pixel_format: str, size: tuple[int, int], common: list[bytes]
) -> tuple[list[Item], list[bytes], list[int]]:
    corners = [(x, y) for y in range(0, image.height, side) for x in range(0, image.width, side)]
    # The tiles at the edges are whole, and black beyond the picture.
    tiles = [_encode(image.crop((x, y, x + side, y + side)), pixel_format) for x, y in corners]
    boxes = [tiles[0][0], _ispe(side, side), _ispe(*size), *common]
    across, down = -(-image.width // side), -(-image.height // side)
    grid = pack(">BBBBHH", 0, 0, down - 1, across - 1, *size)
    items: list[Item] = [(PIXELS, b"grid", grid, [3, *range(4, 4 + len(common))])]
    items += [(FIRST_TILE + n, b"hvc1", frame, (1, 2)) for n, (_, frame) in enumerate(tiles)]
    return items, boxes, [FIRST_TILE + n for n in range(len(tiles))]


def _encode(image: Image.Image, pixel_format: str) -> tuple[bytes, bytes]:
    """Encode the picture; returns the box with the decoder's configuration, and the only frame."""
    return _encoded(image.convert("RGB").tobytes(), image.size, pixel_format)


@lru_cache(maxsize=64)
def _encoded(pixels: bytes, size: tuple[int, int], pixel_format: str) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "still.mp4"
        command = [
            *(get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{size[0]}x{size[1]}", "-i", "-", "-frames:v", "1"),
            *("-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1"),
            *("-pix_fmt", pixel_format, "-x265-params", "log-level=none:crf=4", str(path)),
        ]
        subprocess.run(command, input=pixels, check=True)
        video = path.read_bytes()
    at = video.index(b"hvcC") - 4
    header = video[at : at + unpack_from(">I", video, at)[0]]
    at = video.index(b"mdat") - 4
    return header, video[at + 8 : at + unpack_from(">I", video, at)[0]]


def _file(items: list[Item], boxes: list[bytes], tiles: list[int], brand: bytes) -> bytes:
    head = _box(b"ftyp", brand + bytes(4) + b"mif1heic")
    start = len(head) + len(_meta(items, boxes, tiles, 0)) + 8
    contents = b"".join(content for _, kind, content, _ in items if kind != b"grid")
    return head + _meta(items, boxes, tiles, start) + _box(b"mdat", contents)


def _meta(items: list[Item], boxes: list[bytes], tiles: list[int], start: int) -> bytes:
    infos = b"".join(_infe(number, kind) for number, kind, _, _ in items)
    refs = b""
    if tiles:
        targets = pack(f">{len(tiles)}H", *tiles)
        refs += _box(b"dimg", pack(">HH", PIXELS, len(tiles)) + targets)
    if any(number == METADATA for number, *_ in items):
        refs += _box(b"cdsc", pack(">HHH", METADATA, 1, PIXELS))
    owned = [(number, list(owns)) for number, _, _, owns in items if owns]
    ipma = pack(">I", len(owned))
    for number, owns in owned:
        ipma += pack(">HB", number, len(owns)) + bytes(0x80 | each for each in owns)
    places, small = b"", b""
    for number, kind, content, _ in items:
        # As on Apple's phones, the content of a grid is in the box `idat`, not in `mdat`.
        inside = kind == b"grid"
        at = len(small) if inside else start
        places += pack(">HHHHII", number, inside, 0, 1, at, len(content))
        small, start = (small + content, start) if inside else (small, start + len(content))
    parts = [
        _full(b"hdlr", bytes(4) + b"pict" + bytes(13)),
        _full(b"pitm", pack(">H", PIXELS)),
        _full(b"iinf", pack(">H", len(items)) + infos),
        _full(b"iref", refs) if refs else b"",
        _box(b"iprp", _box(b"ipco", b"".join(boxes)) + _full(b"ipma", ipma)),
        _box(b"idat", small) if small else b"",
        _box(b"iloc", b"\1\0\0\0" + pack(">BBH", 0x44, 0, len(items)) + places),
    ]
    return _full(b"meta", b"".join(parts))


def _infe(number: int, kind: bytes) -> bytes:
    hidden = 1 if number >= FIRST_TILE else 0
    return _box(b"infe", bytes([2, 0, 0, hidden]) + pack(">HH", number, 0) + kind + b"\0")


def _ispe(width: int, height: int) -> bytes:
    return _full(b"ispe", pack(">II", width, height))


def _full(name: bytes, body: bytes) -> bytes:
    return _box(name, bytes(4) + body)


def _box(name: bytes, body: bytes) -> bytes:
    return pack(">I", 8 + len(body)) + name + body
