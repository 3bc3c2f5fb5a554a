"""A picture's file without what is not its pixels: text, colour profiles, EXIF, further frames.

Pillow fails on a file whose metadata it cannot read, and some of it costs far more memory than the
file has bytes. Browsers show such a picture, since they read no more of it than they need; so does
this: a decoder is given a file that has its pixels alone, and how it is turned is read here.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from svd_engine import heif, jpeg2000

# Chunks, segments and the like: each takes a microsecond of Python, whatever it holds. A PNG of
# 260 MB in chunks of 8 kB, as libpng writes them, has 32,000.
MAX_PIECES = 100_000
JPEG_JUNK = 2**16  # bytes before a marker; there are none in a good file, or a few of padding
MAX_AVIF_HEADER = 2**22  # bytes of a box that says where things are
MAX_SCANS = 100  # of a JPEG: encoders make 10 or so, and each goes over the whole picture
TEXT_BYTES = 2**20  # of a text that is unpacked to look for an orientation
# Tags of TIFF that pixels depend on: sizes, bits, compression, strips, tiles, colours.
TIFF_TAGS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320}
TIFF_TAGS |= {322, 323, 324, 325, 332, 338, 339, 347, 530}
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TIFF_VALUES = 2**16  # of one tag: strips, for the most part

_ORIENTATION = 0x0112
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_JPEG_IN_SCANS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # nor where one restarts
_HEVC = re.compile(b"hei[cx]")
_AVIF_METADATA = re.compile(rb"infe\x02.{7}(Exif|mime)", re.DOTALL)
# It has no signature: what kind, with or without a palette; bits of a pixel, and where the top is.
_TGA = rb".(?:\x01[\x01\x09]|\0[\x02\x03\x0a\x0b]).{13}[\x01\x08\x10\x18\x20][\0-\x3f]"

T = TypeVar("T")


@dataclass(frozen=True)
class Bare:
    """A file of pixels alone."""

    data: bytes
    orientation: int = 1  # as EXIF counts them, 1 to 8
    size: tuple[int, int] | None = None  # where it is known before a decoder is made
    kind: str = ""  # Pillow's name of the format, where no other parser may look at it


def strip_metadata(data: bytes) -> Bare:
    """The file without metadata; as it is where its format has none. No pixel is decoded.

    Raises ValueError or struct.error for a file that is broken.
    """
    for magic, strip in _FORMATS:
        if magic.match(data):
            return strip(data)
    return Bare(data)


def exif_orientation(exif: bytes) -> int:
    """An EXIF block's orientation, 1 to 8: the one tag of it that is read. 1 where it is broken."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    try:
        order = {b"II": "<", b"MM": ">"}[exif[start : start + 2]]
        (at,) = struct.unpack_from(f"{order}I", exif, start + 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start + at)
        for entry in range(start + at + 2, start + at + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == _ORIENTATION and kind == 3:
                return value if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    return 1


def _xmp_orientation(xmp: bytes) -> int:
    found = _XMP.search(xmp)
    return int(found[1]) if found and 1 <= int(found[1]) <= 8 else 1


def _strip_png(data: bytes) -> Bare:
    """IHDR, PLTE, IDAT and IEND. An animation's frames are not in IDAT."""
    kept: list[bytes | memoryview] = [data[:8]]
    turned, view = dict[bytes, int](), memoryview(data)
    for name, start, stop in _limited(_png_chunks(data)):
        if name in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(view[start:stop])
        elif name == b"eXIf":
            turned.setdefault(b"exif", exif_orientation(data[start + 8 : stop - 4]))
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            for source, orientation in _text_orientation(name, data[start + 8 : stop - 4]):
                turned.setdefault(source, orientation)
    sides = struct.unpack_from(">II", data, 16) if len(data) >= 24 else None
    orientation = next((o for _, o in sorted(turned.items()) if o != 1), 1)
    return Bare(b"".join(kept), orientation, sides)


def _limited(pieces: Iterator[T]) -> Iterator[T]:
    """The pieces of a file; ValueError where there are too many."""
    for number, piece in enumerate(pieces, 1):
        if number > MAX_PIECES:
            raise ValueError(f"it is in over {MAX_PIECES} pieces")
        yield piece


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    start = 8
    while start + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        yield name, start, min(start + 12 + length, len(data))
        start += 12 + length


def _text_orientation(name: bytes, body: bytes) -> Iterator[tuple[bytes, int]]:
    """Of EXIF as ImageMagick writes it, and of XMP."""
    keyword, _, rest = body.partition(b"\0")
    if keyword not in (b"Raw profile type exif", b"XML:com.adobe.xmp"):
        return
    packed = name == b"zTXt"
    if name == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    elif packed:
        rest = rest[1:]
    try:
        text = zlib.decompressobj().decompress(rest, TEXT_BYTES) if packed else rest[:TEXT_BYTES]
        if keyword.startswith(b"XML"):
            yield b"xmp", _xmp_orientation(text)
        else:
            yield b"exif", exif_orientation(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode()))
    except (zlib.error, ValueError):
        return


def _strip_jpeg(data: bytes) -> Bare:
    """All but comments and APPn; JFIF's and Adobe's say what the colours are."""
    kept: list[bytes | memoryview] = [data[:2]]
    exif, xmp, view = 0, 0, memoryview(data)
    for marker, start, stop in _limited(_jpeg_segments(data)):
        if marker == 0xDA:
            _check_scans(data, start)
        if stop == start + 2:  # a marker alone, which is of no use before the pixels
            continue
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(view[start:stop])
            continue
        body = data[start + 4 : stop]
        if marker == 0xE1 and body.startswith(b"Exif\0"):
            exif = exif or exif_orientation(body)
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = xmp or _xmp_orientation(body)
        elif _tells_colours(marker, body):
            kept.append(view[start:stop])
    return Bare(b"".join(kept), next((o for o in (exif, xmp) if o > 1), 1))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and stop of each; the first scan goes on until the file ends."""
    at = 2
    while found := _JPEG_MARKER.search(data, at, at + JPEG_JUNK):
        at, marker = found.start(), data[found.start() + 1]
        if marker in (0xDA, 0xD9):
            yield marker, at, len(data)
            return
        alone = 0xD0 <= marker <= 0xD8 or marker == 0x01
        if not alone and at + 4 > len(data):
            return
        stop = at + 2 + (0 if alone else max(2, struct.unpack_from(">H", data, at + 2)[0]))
        yield marker, at, stop
        at = stop


def _check_scans(data: bytes, at: int) -> None:
    """ValueError for a JPEG of so many scans that decoding them takes minutes. at: of the first."""
    scans = 0
    for _ in range(MAX_PIECES):
        found = _JPEG_IN_SCANS.search(data, at)
        if found is None or found[0] == b"\xff\xd9" or found.end() + 2 > len(data):
            return
        scans += found[0] == b"\xff\xda"
        if scans > MAX_SCANS:
            raise ValueError(f"it has over {MAX_SCANS} scans")
        at = found.end() + max(2, struct.unpack_from(">H", data, found.end())[0])
    raise ValueError(f"it is in over {MAX_PIECES} pieces")


def _tells_colours(marker: int, body: bytes) -> bool:
    jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
    return jfif or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)


def _strip_webp(data: bytes) -> Bare:
    """The chunks of its first frame."""
    kept, turned, size, frames = list[memoryview](), dict[bytes, int](), None, 0
    view = memoryview(data)
    for name, start, stop in _limited(_webp_chunks(data)):
        frames += name == b"ANMF"
        if name in (b"VP8X", b"VP8 ", b"VP8L"):
            size = size or _webp_size(name, data[start + 8 : start + 18])
        if name == b"EXIF":
            turned.setdefault(b"exif", exif_orientation(data[start + 8 : stop]))
        elif name == b"XMP ":
            turned.setdefault(b"xmp", _xmp_orientation(data[start + 8 : stop]))
        elif name in (b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L") or (
            name == b"ANMF" and frames == 1
        ):
            kept.append(view[start:stop])
    head = struct.pack("<4sI4s", b"RIFF", 4 + sum(map(len, kept)), b"WEBP")
    orientation = next((o for _, o in sorted(turned.items()) if o != 1), 1)
    return Bare(b"".join((head, *kept)), orientation, size)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    start = 12
    while start + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, start)
        stop = min(start + 8 + length + length % 2, len(data))
        yield name, start, stop
        start = stop


def _webp_size(name: bytes, body: bytes) -> tuple[int, int]:
    if name == b"VP8X":
        width, high, height, above = struct.unpack_from("<HBHB", body, 4)
        return 1 + width + (high << 16), 1 + height + (above << 16)
    if name == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


def _strip_tiff(data: bytes) -> Bare:
    """A directory of the tags that pixels depend on, at the end; and no further pictures."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"\x2b\0", b"\0\x2b"):
        raise ValueError("BigTIFF is for files over 4 GB: save it as TIFF")
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    kept, orientation = dict[int, bytes](), 1
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, values, short = struct.unpack_from(f"{order}HHIH", data, entry)
        if tag == _ORIENTATION and kind == 3 and 1 <= short <= 8:
            orientation = short
        if tag not in TIFF_TAGS or tag in kept or kind not in TIFF_SIZES:
            continue
        if values > TIFF_VALUES:
            raise ValueError(f"its tag {tag} has {values} values, over {TIFF_VALUES}")
        kept[tag] = data[entry : entry + 12]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept[tag] for tag in sorted(kept))
    end = len(data) + len(data) % 2
    head = data[:4] + struct.pack(f"{order}I", end)
    padding = bytes(end - len(data))
    parts = (head, memoryview(data)[8:], padding, directory, bytes(4))
    return Bare(b"".join(parts), orientation)


def _strip_avif(data: bytes) -> Bare:
    """Its items of EXIF and XMP bear a name that no decoder knows.

    How it is turned stands in its `irot` and `imir`: that of its EXIF counts for nothing.
    """
    if data[8:12] in (b"mif1", b"msf1") and _HEVC.search(
        data, 8, struct.unpack_from(">I", data)[0]
    ):
        return _strip_heif(data)
    for name, _, length in jpeg2000.boxes(data):
        if name in (b"meta", b"moov") and length > MAX_AVIF_HEADER:
            raise ValueError(f"its {name.decode()} has {length} bytes, over {MAX_AVIF_HEADER}")
    bare = bytearray(data)
    for found in _limited(_AVIF_METADATA.finditer(data)):
        bare[slice(*found.span(1))] = b"skip"
    return Bare(bytes(bare))


def _strip_heif(data: bytes) -> Bare:
    """Its picture alone. As in an AVIF, how it is turned stands beside its pixels."""
    bare, size = heif.rebuild(data)
    return Bare(bare, 1, size, "HEIF")


def _check_jp2(data: bytes) -> Bare:
    """As it is, once its header is known to be no longer than it should."""
    jpeg2000.codestream(data)
    return Bare(data)


_FORMATS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Bare]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _strip_png),
    (re.compile(rb"\xff\xd8\xff"), _strip_jpeg),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _strip_webp),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), _strip_tiff),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n"), _check_jp2),
    (re.compile(rb"....ftyp(?:avif|avis|mif1|msf1)", re.DOTALL), _strip_avif),
    (re.compile(rb"....ftyphe(?:ic|ix|im|is|vc|vx|vm|vs)", re.DOTALL), _strip_heif),
    (re.compile(_TGA, re.DOTALL), lambda data: Bare(data, kind="TGA")),
)
