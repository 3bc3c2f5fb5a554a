"""A picture made ready: fitted to the frame's shape, and the two tensors made of it."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from svd_engine.picture import check_size

CLIP_SIDE = 224


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
    check_size(new_w, new_h)
    canvas = Image.new("RGB", (new_w, new_h))
    canvas.paste(image, ((new_w - w) // 2, (new_h - h) // 2))
    return canvas


def vae_pixels(image: Image.Image, width: int, height: int) -> Tensor:
    """What the VAE sees before noise: (1, 3, height, width), float32 in [-1, 1]."""
    return _to_tensor(image.resize((width, height), Image.Resampling.LANCZOS))


def blur(x: Tensor) -> Tensor:
    """Gaussian blur against aliasing, as strong as each side is larger than CLIP's."""
    along_rows = _blur_last(x)
    return _blur_last(along_rows.transpose(2, 3)).transpose(2, 3)


def shrink(x: Tensor) -> Tensor:
    """To CLIP's size: (1, 3, H, W) -> (1, 3, 224, 224)."""
    return F.interpolate(x, size=(CLIP_SIDE, CLIP_SIDE), mode="bicubic", align_corners=True)


def clip_pixels(
    image: Image.Image,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    blur: Callable[[Tensor], Tensor] = blur,
    shrink: Callable[[Tensor], Tensor] = shrink,
) -> Tensor:
    """What CLIP sees: (1, 3, 224, 224), float32, normalized. The picture squashed to a square."""
    x = shrink(blur(_to_tensor(image)))
    x = (x + 1.0) / 2.0
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W), float32 in [-1, 1]."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255.0
    return 2.0 * x - 1.0


def _blur_last(x: Tensor) -> Tensor:
    """The blur along the last dimension of (1, 3, A, B)."""
    channels, side = x.shape[1], x.shape[3]
    sigma = max((side / CLIP_SIDE - 1.0) / 2.0, 0.001)
    size = int(max(4.0 * sigma, 3)) // 2 * 2 + 1  # made odd
    offsets = torch.arange(size, dtype=torch.float32, device=x.device) - size // 2
    kernel = torch.exp(-(offsets**2) / (2 * torch.tensor(sigma) ** 2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, size)
    padded = F.pad(x, (size // 2, size // 2, 0, 0), mode="reflect")
    return F.conv2d(padded, kernel, groups=channels)
