"""Picture in: safe open, orientation, fit to the frame's shape, and the two tensors made of it."""

from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

CLIP_SIDE = 224
MAX_PIXELS = 178_956_970  # where Pillow itself refuses
# Formats decoded by Pillow's own code: no Ghostscript (EPS, PDF), no rarely tried parsers.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

Picture = Image.Image | str | PathLike[str] | bytes


def open_picture(picture: Picture) -> Image.Image:
    """A picture as upright 8-bit RGB; ValueError says what is wrong with it.

    Orientation and alpha are treated as `diffusers.utils.load_image` treats them: EXIF applied,
    alpha dropped. 16-bit grey is scaled to 8 bits, which Pillow's own conversion would clip.
    """
    if isinstance(picture, Image.Image):
        _check_size(*picture.size)
        return _as_rgb(picture)
    if isinstance(picture, bytes):
        name, data = "the file", picture
    else:
        name, data = str(picture), _read(Path(picture))
    if not data:
        raise ValueError(f"{name} is empty")
    try:
        image = Image.open(BytesIO(data), formats=_formats())
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is not a picture of a known format ({', '.join(FORMATS)})"
        ) from error
    except Exception as error:  # Pillow's parsers raise anything on broken data
        raise ValueError(f"{name} is broken or too large: {error}") from error
    _check_size(*image.size)
    try:
        image.load()
    except Exception as error:  # and so do its decoders
        raise ValueError(f"{name} is broken: {error}") from error
    return _as_rgb(image)


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


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"the picture has {width} x {height} pixels, over {MAX_PIXELS}")
    if min(width, height) < 2:
        raise ValueError(f"the picture has {width} x {height} pixels; it needs 2 along each side")


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


def fit_picture(
    image: Image.Image, width: int, height: int, fit: Literal["stretch", "crop", "pad"]
) -> Image.Image:
    """The picture with the frame's shape: its centre (`crop`), black bars (`pad`), or as it is.

    The size stays the picture's own; what is left to `stretch` is the scaling.
    """
    w, h = image.size
    if fit == "stretch" or w * height == h * width:
        return image
    wide = w * height > h * width
    # The sides the frame's shape has on this picture: along its height, and along its width.
    tall, long = (round(h * width / height), h), (w, round(w * height / width))
    if fit == "crop":
        new_w, new_h = (max(2, side) for side in (tall if wide else long))
        left, top = (w - new_w) // 2, (h - new_h) // 2
        return image.crop((left, top, left + new_w, top + new_h))
    new_w, new_h = long if wide else tall
    _check_size(new_w, new_h)
    canvas = Image.new("RGB", (new_w, new_h))
    canvas.paste(image, ((new_w - w) // 2, (new_h - h) // 2))
    return canvas


def vae_pixels(image: Image.Image, width: int, height: int) -> Tensor:
    """What the VAE sees before noise: (1, 3, height, width), float32 in [-1, 1]."""
    return _to_tensor(image.resize((width, height), Image.Resampling.LANCZOS))


def clip_pixels(
    image: Image.Image, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """What CLIP sees: (1, 3, 224, 224), float32, normalized. The picture squashed to a square."""
    x = _blur(_to_tensor(image))
    x = F.interpolate(x, size=(CLIP_SIDE, CLIP_SIDE), mode="bicubic", align_corners=True)
    x = (x + 1.0) / 2.0
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W), float32 in [-1, 1]."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255.0
    return 2.0 * x - 1.0


def _blur(x: Tensor) -> Tensor:
    """Gaussian blur against aliasing, as strong as each side is larger than CLIP's."""
    along_rows = _blur_last(x)
    return _blur_last(along_rows.transpose(2, 3)).transpose(2, 3)


def _blur_last(x: Tensor) -> Tensor:
    """The blur along the last dimension of (1, 3, A, B)."""
    channels, side = x.shape[1], x.shape[3]
    sigma = max((side / CLIP_SIDE - 1.0) / 2.0, 0.001)
    size = int(max(4.0 * sigma, 3)) // 2 * 2 + 1  # made odd
    offsets = torch.arange(size, dtype=torch.float32) - size // 2
    kernel = torch.exp(-(offsets**2) / (2 * torch.tensor(sigma) ** 2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, size)
    padded = F.pad(x, (size // 2, size // 2, 0, 0), mode="reflect")
    return F.conv2d(padded, kernel, groups=channels)
