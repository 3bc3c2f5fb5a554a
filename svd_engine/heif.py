"""Rebuilds a HEIF file of HEVC pictures from the one picture that is shown (ISO/IEC 23008-12).

pi_heif crashes on malformed metadata, and a file may contain much that is never shown but costs
time and memory. The rebuilt file has the picture, or its tiles, and nothing else. libheif refuses
to decode a picture that is larger than its item declares, so checking the declared sizes is enough.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from svd_engine.jpeg2000 import MAX_PIECES, boxes

MAX_META = 2**22  # bytes of the box that locates the items
MAX_TILED = 130_000_000  # pixels of all tiles, shown or not; decoding them takes a few seconds
PIXELS, GRID = b"hvc1", b"grid"
ONCE = (b"meta", b"pitm", b"iinf", b"iprp", b"ipco", b"ipma", b"iref", b"iloc", b"idat")
# The decoder's configuration, the size, the orientation, the crop and the colours.
KEPT = (b"hvcC", b"ispe", b"irot", b"imir", b"clap", b"pixi", b"colr")
COLOURS = b"nclx"  # a few bytes; other kinds of colour are whole profiles

Part = bytes | memoryview


@dataclass
class Item:
    """An item of the file, such as a picture or a grid of pictures: its content and properties."""

    kind: bytes
    pieces: list[memoryview] = field(default_factory=list)  # of its content, in the file
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)  # by name, those of KEPT
    tiles: list[int] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def size(self) -> tuple[int, int]:
        """The declared size. Raises ValueError if there is none, or more than one."""
        (size,) = (
            struct.unpack_from(">II", b, 4) for name, b in self.properties if name == b"ispe"
        )
        return size


def rebuild(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """A file with the shown picture alone, and its size or that of its tiles, if they are larger.

    The size is that before rotation. Raises ValueError for a file that is broken or too costly.
    """
    try:
        items, primary = _items(data)
        if primary not in items or items[primary].kind not in (PIXELS, GRID):
            kind = items[primary].kind.decode("latin-1") if primary in items else "missing"
            raise ValueError(f"its picture is {kind!r}; only HEVC, whole or in tiles, is read")
        shown = [items[primary], *(items[number] for number in items[primary].tiles)]
        if shown[0].kind == GRID:
            _check_grid(*shown)
        if sum(len(piece) for item in shown for piece in item.pieces) > 2 * len(data):
            raise ValueError("its tiles are longer than the file")
        return _file(shown), max((item.size for item in shown), key=prod)
    except (LookupError, struct.error) as error:
        raise ValueError("its boxes do not say where its picture is") from error


def work_bytes(image: Any, pixels: int) -> int:
    """The memory that decoding takes beside the file and Pillow's picture: planes, and their RGB.

    Measured: 3.6 bytes a pixel in 4:2:0, 5 in 4:4:4; with more than 8 bits, 8 and 11.
    """
    halved = str(image.info.get("chroma")) in ("420", "400")
    small, large = (8.5, 12.0) if image.info.get("bit_depth", 8) > 8 else (3.7, 5.5)
    return int((small if halved else large) * pixels)


def _check_grid(grid: Item, *tiles: Item) -> None:
    """Raise ValueError if a grid contradicts its item's size, or takes too long to decode."""
    content = grid.content
    size = struct.unpack_from(">II" if content[1] & 1 else ">HH", content, 4)
    if size != grid.size:
        raise ValueError(f"its tiles make {size[0]} x {size[1]} pixels, and not {grid.size}")
    if any(tile.kind != PIXELS for tile in tiles):
        raise ValueError("its tiles are not HEVC")
    pixels = sum(prod(tile.size) for tile in tiles)
    if pixels > MAX_TILED:
        raise ValueError(f"its tiles have {pixels} pixels, over {MAX_TILED}")


def _file(shown: list[Item]) -> bytes:
    """A file of these items, numbered from 1. All but the first are tiles of the first."""
    head = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
    contents = [item.content for item in shown]
    start = len(head) + len(_meta(shown, contents, 0)) + 8
    return head + _meta(shown, contents, start) + _box(b"mdat", b"".join(contents))


def _meta(shown: list[Item], contents: list[bytes], start: int) -> bytes:
    properties = list(dict.fromkeys(each for item in shown for each in item.properties))
    index = {each: number for number, each in enumerate(properties, 1)}
    infos, owned, places = b"", b"", b""
    for number, (item, content) in enumerate(zip(shown, contents, strict=True), 1):
        hidden = bytes([0, 0, number > 1])
        infos += _box(b"infe", b"\2" + hidden + struct.pack(">HH", number, 0) + item.kind + b"\0")
        own = [0x8000 | index[each] for each in item.properties]
        owned += struct.pack(f">HB{len(own)}H", number, len(own), *own)
        places += struct.pack(">HHHII", number, 0, 1, start, len(content))
        start += len(content)
    count = len(shown)
    tiles = struct.pack(f">{count + 1}H", 1, count - 1, *range(2, count + 1))
    parts = [
        _box(b"hdlr", bytes(8) + b"pict" + bytes(13)),
        _box(b"pitm", bytes(4) + struct.pack(">H", 1)),
        _box(b"iinf", bytes(4) + struct.pack(">H", count) + infos),
        _box(b"iref", bytes(4) + _box(b"dimg", tiles)) if count > 1 else b"",
        _box(
            b"iprp",
            _box(b"ipco", b"".join(_box(*each) for each in properties))
            + _box(b"ipma", b"\0\0\0\1" + struct.pack(">I", count) + owned),
        ),
        _box(b"iloc", bytes(4) + struct.pack(">BBH", 0x44, 0, count) + places),
    ]
    return _box(b"meta", bytes(4) + b"".join(parts))


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


def _items(data: bytes) -> tuple[dict[int, Item], int]:
    """The items by number, and the number of the one that is shown."""
    top = _children(memoryview(data))
    if b"meta" not in top or b"mini" in top:
        raise ValueError("it has no still picture")
    if len(top[b"meta"]) > MAX_META:
        raise ValueError(f"its meta has {len(top[b'meta'])} bytes, over {MAX_META}")
    meta = _children(bytes(top[b"meta"])[4:])
    items = _infos(meta[b"iinf"])
    _add_properties(items, meta[b"iprp"])
    _add_tiles(items, meta.get(b"iref", b""))
    _add_pieces(items, meta[b"iloc"], (memoryview(data), memoryview(meta.get(b"idat", b""))))
    pitm = meta[b"pitm"]
    (primary,) = struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)
    return items, primary


def _children(box: Part) -> dict[bytes, Part]:
    """The boxes in a box, by name. Those of ONCE must not repeat: decoders differ in which wins."""
    parts = dict[bytes, Part]()
    for name, body in _named(box):
        if name in parts and name in ONCE:
            raise ValueError(f"it has two boxes {name.decode()!r}")
        parts[name] = body
    return parts


def _named(box: Part) -> Iterator[tuple[bytes, Part]]:
    end = 0
    for name, at, length in boxes(box):
        # `boxes` yields the whole length, which includes the head of 8 or 16 bytes.
        head = at - end
        yield name, box[at : at + length - head]
        end += max(head, length)


def _infos(iinf: Part) -> dict[int, Item]:
    items = dict[int, Item]()
    for name, body in _named(iinf[8:] if iinf[0] else iinf[6:]):
        if name == b"infe" and body[0] >= 2:
            (number,) = struct.unpack_from(">H" if body[0] == 2 else ">I", body, 4)
            at = 8 if body[0] == 2 else 10
            if number in items:
                raise ValueError(f"it has two items {number}")
            items[number] = Item(bytes(body[at : at + 4]))
    return items


def _add_properties(items: dict[int, Item], iprp: Part) -> None:
    parts = _children(iprp)
    properties = [(name, bytes(body)) for name, body in _named(parts[b"ipco"])]
    ipma, at = parts[b"ipma"], 8
    number_format, wide = (">I" if ipma[0] else ">H"), ipma[3] & 1
    for _ in range(struct.unpack_from(">I", ipma, 4)[0]):
        (number,) = struct.unpack_from(number_format, ipma, at)
        at += struct.calcsize(number_format)
        count, at = ipma[at], at + 1
        for _ in range(count):
            index = struct.unpack_from(">H", ipma, at)[0] & 0x7FFF if wide else ipma[at] & 0x7F
            at += 1 + wide
            name, body = properties[index - 1] if index else (b"", b"")
            plain = name != b"colr" or body.startswith(COLOURS)
            if number in items and name in KEPT and plain:
                items[number].properties.append((name, body))


def _add_tiles(items: dict[int, Item], iref: Part) -> None:
    """Add to each grid the tiles that it refers to."""
    kind = ">I" if iref and iref[0] else ">H"
    step = struct.calcsize(kind)
    for name, body in _named(iref[4:]):
        (source,) = struct.unpack_from(kind, body)
        if name == b"dimg" and source in items:
            targets = struct.iter_unpack(kind, body[step + 2 : len(body) - len(body) % step])
            items[source].tiles += [number for (number,) in targets]


def _add_pieces(items: dict[int, Item], iloc: Part, homes: tuple[memoryview, memoryview]) -> None:
    """Add to each item its content. homes: the file, and the `idat` box for small content."""
    version, sizes, at = iloc[0], [*_nibbles(iloc[4]), *_nibbles(iloc[5])], 6

    def number(length: int) -> int:
        nonlocal at
        at += length
        if at > len(iloc):
            raise ValueError("its iloc is cut short")
        return int.from_bytes(iloc[at - length : at])

    offset_size, length_size, base_size, index_size = sizes
    wide = 4 if version == 2 else 2
    pieces = 0
    for _ in range(number(wide)):
        item = items.get(number(wide), Item(b""))
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        for _ in range(number(2)):
            pieces += 1
            if pieces > MAX_PIECES or method > 1:
                raise ValueError(f"it is in more than {MAX_PIECES} pieces, or made of other items")
            if version:
                number(index_size)
            start = base + number(offset_size)
            length = number(length_size)
            item.pieces.append(homes[method][start : start + length] if length else homes[method])


def _nibbles(value: int) -> tuple[int, int]:
    return value >> 4, value & 15
