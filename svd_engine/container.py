"""Strips a picture's file of all but its pixels: no text, colour profiles, EXIF or further frames.

Pillow fails on a file whose metadata it cannot read, and some metadata takes far more memory than
the file has bytes. Browsers show such pictures, because they read only what they need. The engine
does the same: the decoder gets a file with nothing but pixels, and the orientation is read here.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from svd_engine import heif, jpeg2000

# The most chunks or segments that a file may have; Python takes a microsecond for each. A PNG of
# 260 MB in chunks of 8 kB, which is what libpng writes, has 32,000.
MAX_PIECES = 100_000
JPEG_JUNK = 2**16  # bytes skipped before a marker; a sound file has at most a few bytes of padding
MAX_AVIF_HEADER = 2**22  # bytes of the box that locates the items
MAX_SCANS = 100  # of a JPEG; encoders write about 10, and each covers the whole picture
TEXT_BYTES = 2**20  # of a compressed text that is searched for an orientation
# The TIFF tags that pixels depend on: sizes, bits, compression, strips, tiles, colours.
TIFF_TAGS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320}
TIFF_TAGS |= {322, 323, 324, 325, 332, 338, 339, 347, 530}
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TIFF_VALUES = 2**16  # of one tag, usually the strips

_ORIENTATION = 0x0112
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_JPEG_IN_SCANS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # not restarts
_HEVC = re.compile(b"hei[cx]")
_AVIF_METADATA = re.compile(rb"infe\x02.{7}(Exif|mime)", re.DOTALL)
# TGA has no signature. It is recognized by its kind, palette, bits per pixel and orientation.
_TGA = rb".(?:\x01[\x01\x09]|\0[\x02\x03\x0a\x0b]).{13}[\x01\x08\x10\x18\x20][\0-\x3f]"

T = TypeVar("T")


@dataclass(frozen=True)
class Bare:
    """A picture's file, stripped to its pixels."""

    data: bytes
    orientation: int = 1  # as EXIF counts them, 1 to 8
    size: tuple[int, int] | None = None  # if it is known before a decoder is created
    kind: str = ""  # Pillow's name of the format, if no other parser may open it


def strip_metadata(data: bytes) -> Bare:
    """Strip a file of its metadata without decoding a pixel. Unknown formats are left as they are.

    Raises ValueError or struct.error for a broken file.
    """
    for magic, strip in _FORMATS:
        if magic.match(data):
            return strip(data)
    return Bare(data)


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 if the block is broken. No other tag is read."""
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
    """Keep IHDR, PLTE, IDAT and IEND. The later frames of an animation are not in IDAT."""
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
    """Pass on the pieces of a file. Raises ValueError if there are too many."""
    for number, piece in enumerate(pieces, 1):
        if number > MAX_PIECES:
            raise ValueError(f"it is in more than {MAX_PIECES} pieces")
        yield piece


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    start = 8
    while start + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        yield name, start, min(start + 12 + length, len(data))
        start += 12 + length


def _text_orientation(name: bytes, body: bytes) -> Iterator[tuple[bytes, int]]:
    """The orientation in EXIF as ImageMagick writes it, or in XMP."""
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
    """Drop comments and APPn segments, but keep JFIF's and Adobe's, which define the colours."""
    kept: list[bytes | memoryview] = [data[:2]]
    exif, xmp, view = 0, 0, memoryview(data)
    for marker, start, stop in _limited(_jpeg_segments(data)):
        if marker == 0xDA:
            _check_scans(data, start)
        if stop == start + 2:  # a bare marker, which has no effect before the pixels
            continue
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(view[start:stop])
            continue
        body = data[start + 4 : stop]
        if marker == 0xE1 and body.startswith(b"Exif\0"):
            exif = exif or exif_orientation(body)
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = xmp or _xmp_orientation(body)
        elif _defines_colours(marker, body):
            kept.append(view[start:stop])
    return Bare(b"".join(kept), next((o for o in (exif, xmp) if o > 1), 1))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and stop of each segment. The first scan extends to the end of the file."""
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
    """Raise ValueError for a JPEG whose scans take minutes to decode. at: where they begin."""
    scans = 0
    for _ in range(MAX_PIECES):
        found = _JPEG_IN_SCANS.search(data, at)
        if found is None or found[0] == b"\xff\xd9" or found.end() + 2 > len(data):
            return
        scans += found[0] == b"\xff\xda"
        if scans > MAX_SCANS:
            raise ValueError(f"it has over {MAX_SCANS} scans")
        at = found.end() + max(2, struct.unpack_from(">H", data, found.end())[0])
    raise ValueError(f"it is in more than {MAX_PIECES} pieces")


def _defines_colours(marker: int, body: bytes) -> bool:
    jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
    return jfif or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)


def _strip_webp(data: bytes) -> Bare:
    """Keep the chunks of the first frame."""
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
    """Append a directory with only the tags that pixels depend on, and without further pictures."""
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
    """Rename the EXIF and XMP items to a type that no decoder knows.

    The orientation is in `irot` and `imir`; the one in EXIF has no effect.
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
    """Keep only the picture. As in an AVIF, the orientation is a property beside the pixels."""
    bare, size = heif.rebuild(data)
    return Bare(bare, 1, size, "HEIF")


def _check_jp2(data: bytes) -> Bare:
    """Keep the file as it is, after checking the length of its header."""
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
