"""Opens picture files safely, upright and as RGB, and checks their size. No torch.

`picture_pixels` then fits an opened picture into the frame. The farm uses this module without
loading an engine.
"""

from dataclasses import replace
from functools import cache
from io import BytesIO
from math import inf, prod
from os import PathLike
from pathlib import Path
from struct import error as StructError
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from svd_engine import heif, jpeg2000
from svd_engine.container import Bare, exif_orientation, strip_metadata

# A phone's 64 megapixels are 9248 x 6936, and a camera's 61 are 9504 x 6336. Pillow takes four
# bytes a pixel, so one picture is 260 MB, and a changed copy of it another 260 MB.
MAX_PIXELS = 65_000_000
MAX_SIDE = 2**15
WORK_BYTES = 250_000_000  # that a decoder may take beside the picture that it returns
# Formats that Pillow's own code decodes, and HEIF, which libheif decodes. Formats of Ghostscript
# (EPS, PDF) and of rarely tested parsers are left out.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "HEIF", "TGA")
CLAIMED = ("HEIF", "TGA")  # opened only if `container` has recognized the format
# The memory that decoders take beside the picture and the file, in bytes per pixel, as measured by
# `python -m tests.picture_memory`. WebP has two canvases. AVIF took 10 with samples of 8 bits; they
# may also have 16.
WORK = {"WEBP": 8, "AVIF": 20}
COPIES = {"WEBP": 2, "AVIF": 2, "HEIF": 2}  # how many copies of the file the decoder makes
# Decoders written in Python take a microsecond or more for each value.
SLOW = ("bmp_rle", "ppm", "ppm_plain")
SLOW_PIXELS = 2_000_000
TIFF_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}  # none, fax, LZW, JPEG, deflate, PackBits

Picture = Image.Image | str | PathLike[str] | bytes

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND_PIXELS = 2**20
READS = 10_000  # the most reads of a file's head; the heads of PNG and JPEG take a few dozen


class _File(BytesIO):
    """A file that limits the reads of its head, in which Pillow's parsers can spend minutes."""

    left: float = READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"its head is in more than {READS} pieces")
        return super().read(size)


def open_picture(picture: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as upright 8-bit RGB. Raises ValueError, which says what is wrong with it.

    As in `diffusers.utils.load_image`, the EXIF orientation is applied and alpha is dropped. 16-bit
    grey is scaled to 8 bits, where Pillow's own conversion would clip it. Unreadable metadata is
    ignored.
    """
    if isinstance(picture, Image.Image):
        check_size(*picture.size, max_pixels)
        return _upright(_as_rgb(picture), _orientation_of(picture))
    if isinstance(picture, bytes):
        name, data = "the file", picture
    else:
        name, data = str(picture), _read(Path(picture))
    opened, bare = _parse(data, name, max_pixels)
    image: Image.Image = opened
    del data
    size, orientation, file = image.size, bare.orientation, opened.fp
    del opened
    try:
        if image.format == "WEBP":
            del image  # it holds a copy of the file
            image = _decode_webp(bare.data)
        elif image.format == "AVIF":
            orientation = exif_orientation(image.info.get("exif", b""))
        del bare
        image.load()
        if file and not file.closed:
            file.truncate(0)  # a TIFF keeps the file otherwise
    except Exception as error:  # Pillow's decoders raise all kinds of errors on broken data
        raise ValueError(f"{name} is broken: {_words(error)}") from error
    if image.size != size:
        raise ValueError(f"{name} is broken: its size is {size}, and {image.size} once decoded")
    image.info.clear()
    image = _as_rgb(image)  # rebinding the name leaves two copies at most
    return _upright(image, orientation)


def check_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Check a file by its head, without decoding a pixel; return its size when upright.

    Raises ValueError with the message that `open_picture` would give.
    """
    image, bare = _parse(data, "the file", max_pixels)
    turned = bare.orientation
    if image.format == "AVIF":
        turned = exif_orientation(image.info.get("exif", b""))
    return image.size[::-1] if turned >= 5 else image.size


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ValueError if a picture is too large, or too small to be blurred for CLIP."""
    if width * height > max_pixels:
        raise ValueError(f"the picture has {width} x {height} pixels, over {max_pixels}")
    if min(width, height) < 2:
        raise ValueError(f"the picture has {width} x {height} pixels; it needs 2 along each side")
    if max(width, height) > MAX_SIDE:
        raise ValueError(
            f"the picture has {width} x {height} pixels; a side may have at most {MAX_SIDE}"
        )


def _parse(data: bytes, name: str, max_pixels: int) -> tuple[ImageFile.ImageFile, Bare]:
    if not data:
        raise ValueError(f"{name} is empty")
    try:
        bare = strip_metadata(data)
    except (ValueError, StructError) as error:
        raise ValueError(f"{name} is broken: {error}") from error
    if bare.size:
        check_size(*bare.size, max_pixels)
    try:
        file = _File(bare.data)
        image = Image.open(file, formats=_formats(bare.kind))
        file.left = inf
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is not a picture of a known format ({', '.join(FORMATS)}), or its head is "
            "broken"
        ) from error
    except Exception as error:  # Pillow's parsers raise all kinds of errors on broken heads
        raise ValueError(f"{name} is broken or too large: {_words(error)}") from error
    check_size(*image.size, max_pixels)
    try:
        if image.format == "HEIF":  # it may show only a part of what is decoded
            work = heif.work_bytes(image, prod(bare.size or image.size))
        else:
            work = _work_bytes(image)
        copies = COPIES.get(image.format or "", 0) + (bare.data is not data)
        work += copies * len(bare.data)
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
    except Exception as error:
        raise ValueError(f"{name} is broken: {_words(error)}") from error
    if work > WORK_BYTES:
        w, h = image.size
        raise ValueError(
            f"the picture has {w} x {h} pixels: as it is stored ({image.format}), decoding takes "
            f"{work // 10**6} MB beside its pixels, over {WORK_BYTES // 10**6}; save it smaller, "
            "or as a baseline JPEG or a PNG"
        )
    return image, replace(bare, size=image.size)


def _work_bytes(image: Any) -> int:
    """The memory that decoding an image takes beside its pixels."""
    width, height = image.size
    if image.format == "JPEG" and _keeps_coefficients(image):
        most = max(h for _, h, _, _ in image.layer) * max(v for _, _, v, _ in image.layer)
        return int(2 * width * height * sum(h * v for _, h, v, _ in image.layer) / most)
    if image.format == "TIFF":
        return _tiff_work_bytes(image.tag_v2, width, height)
    if image.format == "JPEG2000":
        return jpeg2000.work_bytes(image.fp.getvalue())
    if width * height > SLOW_PIXELS and image.tile and image.tile[0].codec_name in SLOW:
        raise ValueError(
            f"it has {width} x {height} pixels, over {SLOW_PIXELS}, in a kind of {image.format} "
            "that is slow to decode (text, runs or an odd depth): save it as a PNG"
        )
    return WORK.get(image.format, 0) * width * height


def _keeps_coefficients(image: Any) -> bool:
    """Whether a JPEG has several scans, so that the decoder keeps everything until the last one."""
    first_scan = image.fp.read(3)  # Pillow stopped before its length and number of components
    return "progressive" in image.info or len(first_scan) < 3 or first_scan[2] < image.layers


def _tiff_work_bytes(tags: Any, width: int, height: int) -> int:
    """The size of a strip or tile, which is kept until it is complete."""
    compression = tags.get(259, 1)
    if compression not in TIFF_COMPRESSIONS:
        raise ValueError(f"its compression {compression} is not one of {sorted(TIFF_COMPRESSIONS)}")
    if compression == 1 and 322 not in tags:
        return 0
    pixels = tags[322] * tags[323] if 322 in tags else width * min(height, tags.get(278, height))
    bits = max(tags.get(258, (1,))) * tags.get(277, 1)
    return int(pixels * (10 if compression == 7 else max(1, bits / 8)))


def _decode_webp(data: bytes) -> Image.Image:
    """Decode the first frame. Pillow would hold a third copy beside the decoder's two."""
    from PIL import _webp

    decoder = _webp.WebPAnimDecoder(data)
    size, _, _, _, mode = decoder.get_info()
    frame = decoder.get_next()
    if frame is None:
        raise ValueError("it cannot be decoded")
    del decoder
    return Image.frombuffer(mode, size, frame[0], "raw", mode, 0, 1)


@cache
def suffixes() -> frozenset[str]:
    """The suffixes that Pillow registers for the formats of `open_picture`, such as `.jpg`."""
    kinds = {*_formats(""), *CLAIMED, "MPO"}  # MPO: several JPEGs, of which the first is opened
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in kinds)


@cache
def _formats(kind: str) -> tuple[str, ...]:
    """The FORMATS that this build of Pillow supports; only `kind`, if given."""
    import pi_heif  # imported here, so that an engine runs without it

    pi_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )
    Image.init()
    if kind:
        return (kind,)
    return tuple(name for name in FORMATS if name in Image.OPEN and name not in CLAIMED)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no picture at {path}") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder, not a picture") from error


def _orientation_of(image: Image.Image) -> int:
    """The orientation of an image, however it was created; 1 if it cannot be read."""
    try:
        image.load()
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        return 1


def _words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("the picture holds floating-point values, whose white point is not known")
    try:
        if image.mode.startswith("I"):
            image = _as_grey(image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the picture is broken: {_words(error)}") from error


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _as_grey(image: Image.Image) -> Image.Image:
    """Scale 16 bits, which may be stored in 32, to 8."""
    width, height = image.size
    grey = Image.new("L", image.size)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        values = np.asarray(band).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            least, most = values.min(), values.max()
            raise ValueError(f"the picture's values {least} to {most} are not 16-bit")
        grey.paste(Image.fromarray(((values + 128) // 257).astype(np.uint8)), (0, top))
    return grey
