"""HEIC as phones write it: decoded and turned correctly, or refused by its header."""

from struct import pack
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svd_engine.picture_files import check_picture, open_picture, suffixes
from tests.conftest import draw_picture
from tests.picture_memory import TURNED, encoded, plain
from tests.support.heic import _encode, _file, _ispe, heic

SMOOTH = Image.fromarray(np.asarray(draw_picture(150, 110).resize((30, 22))).copy()).resize(
    (300, 220)
)


def difference(one: Image.Image, other: Image.Image) -> float:
    assert one.size == other.size
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


@pytest.mark.parametrize(
    ("options", "turned"),
    [
        ({}, None),
        ({"tile": 128}, None),
        ({"brand": b"mif1"}, None),
        ({"pixel_format": "yuv420p10le"}, None),
        ({"pixel_format": "yuv444p"}, None),
        ({"exif": TURNED}, None),  # HEIF's own transforms count, and not EXIF's
        ({"turn": 1, "exif": TURNED}, Image.Transpose.ROTATE_90),
        ({"turn": 2}, Image.Transpose.ROTATE_180),
        ({"turn": 3, "tile": 128}, Image.Transpose.ROTATE_270),
        ({"mirror": 0}, Image.Transpose.FLIP_TOP_BOTTOM),
        ({"mirror": 1}, Image.Transpose.FLIP_LEFT_RIGHT),
    ],
)
def test_a_heic_shows_its_picture(options: dict[str, Any], turned: Image.Transpose | None) -> None:
    data = heic(SMOOTH, **options)
    opened = open_picture(data)
    expected = SMOOTH.transpose(turned) if turned is not None else SMOOTH
    assert difference(opened, expected) < 6
    assert check_picture(data) == opened.size


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"claims": (100, 100)}, "broken: .*maximum image size"),
        ({"claims": (1000, 1000)}, "broken: .*size"),
        ({"claims": (30000, 30000)}, "30000 x 30000 pixels, over"),
        ({"claims": (1000, 1000), "tile": 128}, "broken"),
    ],
)
def test_what_a_heic_claims_is_checked(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        open_picture(heic(SMOOTH, **options))


def in_tiles(
    side: int,
    canvas: tuple[int, int],
    says: tuple[int, int],
    across: int = 3,
    kind: bytes = b"hvc1",
) -> bytes:
    """A grid that says one size in its content, and another in its properties."""
    header, frame = _encode(plain("RGB", 64, 64), "yuv420p")
    numbers = list(range(10, 10 + across * across))
    grid = pack(">BBBBII", 0, 1, across - 1, across - 1, *canvas)
    tiles = [(number, kind, frame, (1, 2)) for number in numbers]
    boxes = [header, _ispe(side, side), _ispe(*says)]
    return _file([(1, b"grid", grid, [3]), *tiles], boxes, numbers, b"heic")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (in_tiles(64, (192, 192), (64, 64)), "its tiles make 192 x 192 pixels"),
        (in_tiles(8000, (192, 192), (192, 192)), "its tiles have 576000000 pixels"),
        (in_tiles(64, (192, 192), (192, 192), kind=b"grid"), "its tiles are not HEVC"),
        (in_tiles(64, (192, 192), (192, 192), kind=b"av01"), "its tiles are not HEVC"),
        (heic(SMOOTH).replace(b"hvc1", b"unci"), "its picture is 'unci'"),
        (heic(SMOOTH).replace(b"pitm\0\0\0\0\0\1", b"pitm\0\0\0\0\0\7"), "'missing'"),
        (heic(SMOOTH).replace(b"iprp", b"free"), "broken"),
        (heic(SMOOTH).replace(b"meta", b"free"), "no still picture"),
        (heic(SMOOTH)[:200], "broken"),
        (heic(SMOOTH)[:-1000], "broken"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "no still picture"),
    ],
)
def test_a_heic_without_a_bound_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        open_picture(data)


def test_an_avif_of_the_same_brand_is_still_read() -> None:
    avif = encoded(SMOOTH, "AVIF").replace(b"ftypavif", b"ftypmif1", 1)
    assert open_picture(avif).size == SMOOTH.size


def test_suffixes_are_of_formats_that_are_opened() -> None:
    known = suffixes()
    assert known >= {".jpg", ".jfif", ".jpe", ".mpo", ".tga", ".heic", ".heif", ".hif", ".webp"}
    assert known >= {".apng", ".tif", ".j2k", ".pgm", ".avif", ".png", ".gif", ".bmp"}
    assert not known & {".pdf", ".eps", ".mpg", ".mp4", ".txt", ".ico", ".npy", ""}
