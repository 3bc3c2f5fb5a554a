"""Draws small previews of a clip that is still being denoised: its colours, over its picture.

The colours are a projection of the latents. It is not a table of constants, but fitted to the
clip's own picture, whose latent and pixels are both known, so it suits every VAE and costs next to
nothing. It has one value for each latent pixel; what is finer comes from the picture, wherever the
colours are still the picture's. So a preview is as sharp as the picture where nothing has moved,
and blurred where something has.
"""

from dataclasses import dataclass
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
SIDE = 256  # the longer side of a preview, at most
CHANGED = 0.15  # in [-1, 1]: colours that differ from the picture's by more are taken to have moved


@dataclass(frozen=True)
class Palette:
    """What the previews of a clip are drawn with."""

    colours: Tensor  # (C + 1, 3), the affine map from a latent pixel to RGB in [-1, 1]
    picture: Tensor  # (1, 3, H, W) in [-1, 1], in a preview's size
    blurred: Tensor  # (1, 3, H, W), the picture as its own latent shows it


def fit_palette(picture: Image.Image, image_latent: Tensor, params: RenderParams) -> Palette:
    """The colours that fit a picture best. Raises ValueError if the picture is too large.

    picture: in its own size. image_latent: (1, C, h, w), its unscaled latent.
    """
    latent = image_latent.float().cpu()
    height, width = (LATENT_SCALE * side for side in latent.shape[-2:])
    pixels = vae_pixels(view_picture(picture, width, height, params.fit), width, height).cpu()
    small = F.interpolate(pixels, size=latent.shape[-2:], mode="area")
    colours = torch.linalg.lstsq(_with_ones(latent), small[0].flatten(1).T).solution
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    shown = F.interpolate(pixels, size=size, mode="area")
    return Palette(colours, shown, _enlarged(_project(latent, colours), size))


def draw_preview(latents: Tensor, palette: Palette, scaling_factor: float, fps: int) -> bytes:
    """Draw denoised latents (F, C, h, w) as an animated WebP."""
    height, width = palette.picture.shape[-2:]
    rgb = _project(latents.float().cpu() / scaling_factor, palette.colours)
    seen = _enlarged(rgb, (height, width))
    change = seen - palette.blurred
    moved = change.abs().mean(1, keepdim=True)
    still = torch.exp(-((F.avg_pool2d(moved, 5, 1, 2) / CHANGED) ** 2))
    drawn = seen + still * (palette.picture - palette.blurred)
    frames = to_uint8(drawn.clamp(-1, 1)).numpy()
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


def _project(latents: Tensor, colours: Tensor) -> Tensor:
    """Latents (N, C, h, w) as colours (N, 3, h, w)."""
    rgb = _with_ones(latents) @ colours
    return rgb.reshape(len(latents), *latents.shape[-2:], 3).permute(0, 3, 1, 2)


def _enlarged(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(rgb, size=size, mode="bicubic")


def _with_ones(latents: Tensor) -> Tensor:
    """Latents (N, C, h, w) as rows (N*h*w, C + 1), each of which ends in a 1."""
    return F.pad(latents.permute(0, 2, 3, 1).flatten(0, 2), (0, 1), value=1.0)
