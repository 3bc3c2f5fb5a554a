"""Draws small previews of a clip that is still being denoised, by projecting latents to colours.

The projection is not a table of constants. It is fitted to the clip's own picture, whose latent and
pixels are both known, so it suits every VAE and costs next to nothing.
"""

from io import BytesIO

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from svd_engine.params import RenderParams
from svd_engine.picture_pixels import vae_pixels, view_picture
from svd_engine.recipe import to_uint8
from svd_engine.sizes import LATENT_SCALE

QUALITY = 75  # of WebP


def fit_colours(picture: Image.Image, image_latent: Tensor, params: RenderParams) -> Tensor:
    """The affine map (C + 1, 3) from a latent pixel to RGB in [-1, 1] that fits this picture best.

    picture: in its own size. image_latent: (1, C, h, w), its unscaled latent.
    """
    height, width = (LATENT_SCALE * side for side in image_latent.shape[-2:])
    pixels = vae_pixels(view_picture(picture, width, height, params.fit), width, height)
    small = F.interpolate(pixels, size=image_latent.shape[-2:], mode="area")
    return torch.linalg.lstsq(_with_ones(image_latent.float()), small[0].flatten(1).T).solution


def draw_preview(latents: Tensor, colours: Tensor, scaling_factor: float, fps: int) -> bytes:
    """Draw denoised latents (F, C, h, w) as an animated WebP, with one pixel per latent pixel."""
    height, width = latents.shape[-2:]
    rgb = _with_ones(latents.float().cpu() / scaling_factor) @ colours
    frames = to_uint8(rgb.reshape(-1, height, width, 3).permute(0, 3, 1, 2)).numpy()
    first, *others = map(Image.fromarray, frames)
    buffer = BytesIO()
    first.save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=round(1000 / fps),
        loop=0,
        quality=QUALITY,
        method=0,
    )
    return buffer.getvalue()


def _with_ones(latents: Tensor) -> Tensor:
    """Latents (N, C, h, w) as rows (N*h*w, C + 1), each of which ends in a 1."""
    return F.pad(latents.permute(0, 2, 3, 1).flatten(0, 2), (0, 1), value=1.0)
