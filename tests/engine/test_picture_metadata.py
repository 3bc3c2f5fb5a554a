"""Unreadable metadata is ignored, and the cost of a picture is bounded."""

import struct
import warnings
import zlib
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svd_engine.picture_files import check_picture, open_picture
from tests.conftest import draw_picture
from tests.picture_memory import LIMIT, QUICK, SLOW, TURNED, encoded, huge_webp, measure
from tests.support.heic import heic

RGB = draw_picture(60, 44)
WITH_EXIF = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF")
FORMATS = (*WITH_EXIF, "GIF", "BMP", "PPM", "JPEG2000", "HEIF", "HEIF in tiles", "TGA")


def exif() -> Image.Exif:
    made = Image.Exif()
    made[0x0112], made[0x010E], made[0x9286] = 6, "a description", "a comment"
    return made


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_malformed_exif_beside_whole_pixels_is_ignored(kind: str) -> None:
    random = Random(0)
    shown = np.asarray(open_picture(encoded(RGB, kind)))
    block = exif().tobytes()
    for _ in range(60):
        bad = bytearray(block)
        for _ in range(random.choice((1, 3, 20))):
            bad[random.randrange(6, len(bad))] = random.randrange(256)
        data = encoded(RGB, kind) if kind == "AVIF" else encoded(RGB, kind, exif=bytes(bad))
        if kind == "AVIF":
            whole = encoded(RGB, kind, exif=block)
            data = whole.replace(block[6:], bytes(bad[6:]))
        opened = np.asarray(open_picture(data))
        assert sorted(opened.shape) == sorted(shown.shape)
        width, height = check_picture(data)
        assert opened.shape == (height, width, 3)


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"eXIf", b"gAMA", b"acTL"])
def test_a_png_chunk_that_cannot_be_read_is_skipped(name: bytes) -> None:
    packed = zlib.compress(bytes(100_000_000), 9)
    body = {b"iTXt": b"a\0\1\0\0\0" + packed}.get(name, b"a\0\0" + packed)
    whole = encoded(RGB, "PNG")
    for data in (chunk(name, body), chunk(name, body)[:-4] + b"bad!", chunk(name, b"") * 3):
        opened = open_picture(whole[:33] + data + whole[33:])
        assert np.array_equal(np.asarray(opened), np.asarray(RGB))


def fuzz(kind: str, count: int) -> None:
    """A picture or a ValueError, and the same of both looks at it where the head is at fault."""
    random = Random(kind)
    options: dict[str, Any] = {"exif": exif()} if kind in WITH_EXIF else {}
    tile = 32 if kind == "HEIF in tiles" else 0
    heif = kind.startswith("HEIF")
    whole = heic(RGB, exif=TURNED, tile=tile) if heif else encoded(RGB, kind, **options)
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(random.choice((1, 1, 3, 20))):
            end = len(data) if random.random() < 0.5 else min(600 if heif else 120, len(data))
            data[random.randrange(end)] = random.choice((0, 255, random.randrange(256)))
        if random.random() < 0.2:
            del data[random.randrange(len(data)) :]
        refused = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check_picture(bytes(data), 10**6)
            except ValueError as error:
                refused = str(error)
            again = ""
            try:
                assert open_picture(bytes(data), 10**6).mode == "RGB"
            except ValueError as error:
                again = str(error)
        assert not refused or again == refused


@pytest.mark.parametrize("kind", FORMATS)
def test_mutations_open_or_are_refused(kind: str) -> None:
    fuzz(kind, 120)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_many_mutations_open_or_are_refused(kind: str) -> None:
    fuzz(kind, 3000)


def test_a_webp_that_claims_much_is_refused_by_its_head() -> None:
    with pytest.raises(ValueError, match="16383 x 10900 pixels, over 65000000"):
        check_picture(huge_webp())


def bounded(name: str) -> None:
    make, fit = {**QUICK, **SLOW}[name]
    memory = measure(make(), fit)
    assert memory["peak"] - memory["decoded"] <= LIMIT, memory


@pytest.mark.parametrize(
    "name", ["6000 x 5, pad", "WebP, lossless, 12 MP of noise", "TIFF of four pages, 12 MP"]
)
def test_some_of_the_worst_take_little_memory(name: str) -> None:
    bounded(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("JPEG of 180 scans", "over 100 scans"),
        ("JPEG2000, 3 MP in blocks of 4 x 4", "code blocks are 4 x 4"),
        ("PPM as text, 3 MP", "slow to decode"),
        ("ICO", "not a picture of a known format"),
        ("BigTIFF", "BigTIFF"),
    ],
)
def test_what_has_no_bound_is_refused_by_its_head(name: str, why: str) -> None:
    data = SLOW[name][0]()
    for look in (check_picture, open_picture):
        with pytest.raises(ValueError, match=why):
            look(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_no_picture_takes_much_memory(name: str) -> None:
    bounded(name)
