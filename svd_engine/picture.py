"""Picture in: safe open, orientation. No torch: the farm looks at pictures without an engine."""

from io import BytesIO
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 178_956_970  # where Pillow itself refuses
# Formats decoded by Pillow's own code: no Ghostscript (EPS, PDF), no rarely tried parsers.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

Picture = Image.Image | str | PathLike[str] | bytes


def open_picture(picture: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture as upright 8-bit RGB; ValueError says what is wrong with it.

    Orientation and alpha are treated as `diffusers.utils.load_image` treats them: EXIF applied,
    alpha dropped. 16-bit grey is scaled to 8 bits, which Pillow's own conversion would clip.
    """
    if isinstance(picture, Image.Image):
        check_size(*picture.size, max_pixels)
        return _as_rgb(picture)
    if isinstance(picture, bytes):
        name, data = "the file", picture
    else:
        name, data = str(picture), _read(Path(picture))
    image = _parse(data, name, max_pixels)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise anything on broken data
        raise ValueError(f"{name} is broken: {error}") from error
    return _as_rgb(image)


def check_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Look at a file's head, decoding no pixel; ValueError says what is wrong with it."""
    _parse(data, "the file", max_pixels)


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """ValueError where a picture is too large, or too small to be blurred for CLIP."""
    if width * height > max_pixels:
        raise ValueError(f"the picture has {width} x {height} pixels, over {max_pixels}")
    if min(width, height) < 2:
        raise ValueError(f"the picture has {width} x {height} pixels; it needs 2 along each side")


def _parse(data: bytes, name: str, max_pixels: int) -> Image.Image:
    if not data:
        raise ValueError(f"{name} is empty")
    try:
        image = Image.open(BytesIO(data), formats=_formats())
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is not a picture of a known format ({', '.join(FORMATS)})"
        ) from error
    except Exception as error:  # and so do its parsers
        raise ValueError(f"{name} is broken or too large: {error}") from error
    check_size(*image.size, max_pixels)
    return image


def _formats() -> list[str]:
    """Those of FORMATS that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no picture at {path}") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder, not a picture") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("the picture holds floating-point values, whose white point is not known")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"the picture's values {grey.min()} to {grey.max()} are not 16-bit")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
