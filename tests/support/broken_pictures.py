"""Randomly damaged pictures; the seed is fixed, so they are repeatable."""

import struct
import zlib
from io import BytesIO
from random import Random

from PIL import Image

from tests.conftest import draw_picture

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def mutated_pictures(count: int) -> list[bytes]:
    """Pictures with flipped bits, cut off, spliced, or with headers that claim 60000 x 60000."""
    random = Random(0)
    whole = {kind: encoded(draw_picture(90, 60), kind) for kind in FORMATS}
    kinds = (flipped, flipped, cut, spliced, bomb)
    return [kinds[n % len(kinds)](whole, random) for n in range(count)]


def flipped(whole: dict[str, bytes], random: Random) -> bytes:
    data = bytearray(whole[random.choice(FORMATS)])
    for _ in range(random.choice((1, 1, 3, 30))):
        # Half of the bits are in the header, where they do the most damage.
        data[random.randrange(64 if random.random() < 0.5 else len(data))] ^= 1 << random.randrange(
            8
        )
    return bytes(data)


def cut(whole: dict[str, bytes], random: Random) -> bytes:
    data = whole[random.choice(FORMATS)]
    return data[: random.randrange(len(data))]


def spliced(whole: dict[str, bytes], random: Random) -> bytes:
    head, rest = random.sample(FORMATS, 2)
    at = random.randrange(4, 64)
    return whole[head][:at] + whole[rest][random.choice((0, at)) :]


def bomb(whole: dict[str, bytes], random: Random) -> bytes:
    kind = random.choice(("PNG", "GIF", "BMP"))
    data = bytearray(whole[kind])
    if kind == "PNG":
        data[16:24] = struct.pack(">II", 60_000, 60_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 60_000, 60_000)
    else:
        data[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(data)
