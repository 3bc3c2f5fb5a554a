"""Draws tensors and their differences, as data URLs of pictures for the pages."""

import base64
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 256  # pixels of a picture's longer side, at least
# The colours of a difference: black, violet, red, yellow, white.
SHADES = np.array(
    [[0, 0, 0], [80, 10, 110], [205, 45, 60], [250, 190, 40], [255, 255, 255]], np.float32
)


def some_frames(count: int) -> list[int]:
    """The first frame, the middle one and the last."""
    return sorted({0, count // 2, count - 1})


def picture(x: Tensor, shades: tuple[float, float] | None = None) -> Image.Image:
    """Draw (C, H, W) in grey or in colours, from its least value to its greatest.

    shades: the values that are drawn darkest and brightest instead.
    """
    x = x[:3] if len(x) >= 3 else x[:1].expand(3, -1, -1)
    least, greatest = (x.min(), x.max()) if shades is None else map(torch.tensor, shades)
    span = (greatest - least).clamp_min(1e-12)
    levels = ((x - least) / span * 255).clamp(0, 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def heat(difference: Tensor, largest: float) -> Image.Image:
    """Draw the largest difference among the channels of each pixel of (C, H, W)."""
    share = difference.abs().amax(dim=0).numpy() / (largest or 1.0)
    at = share.clip(0, 1) * (len(SHADES) - 1)
    low = np.floor(at).astype(int).clip(0, len(SHADES) - 2)
    part = (at - low)[..., None]
    colours = SHADES[low] * (1 - part) + SHADES[low + 1] * part
    return Image.fromarray(colours.round().astype(np.uint8))


def url(image: Image.Image, longest: int | None = None) -> str:
    """A picture as a data URL. longest: the pixels that a longer side is shrunk to."""
    scale = max(1, SIDE // max(image.size))
    width, height = image.size
    image = image.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    if longest is not None:
        image.thumbnail((longest, longest), Image.Resampling.BOX)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
