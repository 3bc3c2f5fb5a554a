"""Turns whatever a Python caller passes as a picture into the bytes of a picture file.

Whether these can be opened is checked by `svd_engine.picture_files`, in the farm.
"""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from farm.errors import RequestError
from svd_engine.picture_files import open_picture

PictureLike = Image.Image | str | os.PathLike[str] | bytes | NDArray[np.uint8]


def picture_bytes(picture: PictureLike) -> bytes:
    """The bytes of a picture: a file's own; a PNG for an image or an array (H, W, 3) of uint8.

    Raises RequestError for a file that cannot be read and for any other type or shape. Whether a
    file's content is a picture is left to the farm to check.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, (str, os.PathLike)):
        return _read(Path(picture))
    if isinstance(picture, np.ndarray):
        return _as_png(_image_of(picture))
    if isinstance(picture, Image.Image):
        return _as_png(picture)
    raise RequestError(
        "the picture: give a PIL image, a path, a file's bytes or a numpy array (H, W, 3) of "
        f"uint8, got {type(picture).__name__}"
    )


def picture_name(picture: PictureLike) -> str:
    """The name of the picture's file; empty if it has none."""
    file = picture.filename if isinstance(picture, ImageFile.ImageFile) else picture
    if isinstance(file, (str, os.PathLike)):
        return Path(file).name
    return ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RequestError(f"there is no picture at {path}") from error
    except (OSError, ValueError) as error:  # ValueError: the path is invalid
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"cannot read {path}: {reason}") from error


def _image_of(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise RequestError(
            f"the picture: an array must be (H, W, 3) of uint8, got {array.shape} of {array.dtype}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _as_png(image: Image.Image) -> bytes:
    """The image as a PNG, upright and in RGB as the engine would make it.

    It is converted first, because PNG supports neither CMYK nor floats.
    """
    buffer = BytesIO()
    try:
        open_picture(image).save(buffer, "PNG", compress_level=1)  # 6 takes seconds for a photo
    except (ValueError, OSError) as error:
        raise RequestError(f"the picture: {error}") from error
    return buffer.getvalue()
