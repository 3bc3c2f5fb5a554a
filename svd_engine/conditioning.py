"""The inputs of denoising: a clip's noise, and the UNet's conditioning on the picture.

Shapes: F frames, H x W pixels, h x w = H/8 x W/8 latent pixels, D embedding width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from svd_engine.params import RenderParams
from svd_engine.sizes import LATENT_CHANNELS, LATENT_SCALE
from svd_engine.vae import VAE


@dataclass(frozen=True)
class Noise:
    """All noise of one clip, on the CPU."""

    picture: Tensor  # (1, 3, H, W), float32
    latents: Tensor  # (1, F, C, h, w), model dtype


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is conditioned on: the picture, and the motion asked for."""

    embedding: Tensor  # (1, 1, D)
    image_latent: Tensor  # (1, C, h, w), unscaled
    time_ids: Tensor  # (1, 3): fps - 1, motion bucket, augmentation strength

    def to(self, device: torch.device) -> "Conditioning":
        """A copy on `device`."""
        return Conditioning(
            self.embedding.to(device), self.image_latent.to(device), self.time_ids.to(device)
        )


def frame_shape(params: RenderParams) -> tuple[int, int, int]:
    """Width, height and number of frames. Raises ValueError if the params are not resolved."""
    if params.width is None or params.height is None or params.num_frames is None:
        raise ValueError("width, height and num_frames are open: call params.resolve(defaults)")
    return params.width, params.height, params.num_frames


def latent_shape(params: RenderParams, channels: int) -> tuple[int, int, int, int]:
    """The shape of a clip's latents: frames, channels, height and width."""
    width, height, frames = frame_shape(params)
    return frames, channels, height // LATENT_SCALE, width // LATENT_SCALE


def draw_noise(
    params: RenderParams, dtype: torch.dtype, latent_channels: int = LATENT_CHANNELS
) -> Noise:
    """Draw the clip's noise, which depends on its seed alone: the picture's, then the latents'.

    The picture's noise is drawn even if its strength is 0, as in diffusers: the strength must not
    change the latents' noise.
    """
    width, height, _frames = frame_shape(params)
    generator = torch.Generator("cpu").manual_seed(params.seed)
    picture = torch.randn((1, 3, height, width), generator=generator, dtype=torch.float32)
    shape = (1, *latent_shape(params, latent_channels))
    return Noise(picture, torch.randn(shape, generator=generator, dtype=dtype))


def augment(pixels: Tensor, noise: Tensor, strength: float) -> Tensor:
    """Add noise to the picture, before the VAE encodes it: (1, 3, H, W), float32."""
    return pixels + strength * noise


@torch.no_grad()
def encode_latent(vae: VAE, pixels: Tensor) -> Tensor:
    """The mean (1, C, h, w) of the posterior of pixels (1, 3, H, W) in [-1, 1], float32.

    A VAE whose float16 encoder overflows (`force_upcast`) encodes in float32 with the same weights.
    """
    mean, _log_variance = posterior(vae, pixels)
    return mean


@torch.no_grad()
def posterior(vae: VAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the log variance of the posterior; see `encode_latent`."""
    weights = next(vae.parameters())
    if weights.dtype != torch.float16 or not vae.config.force_upcast:
        return vae.encode(pixels.to(weights))
    encoder = (vae.encoder, vae.quant_conv)
    try:
        for module in encoder:
            module.float()
        return vae.encode(pixels.to(weights.device))
    finally:
        for module in encoder:
            module.to(torch.float16)


def time_ids(params: RenderParams) -> Tensor:
    """The motion conditioning (1, 3): fps - 1, motion bucket, augmentation strength."""
    return torch.tensor([[params.fps - 1, params.motion, params.noise_aug_strength]])


def pair(conditioning: Conditioning, frames: int, guided: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The context (B, 1, D), image latents (B, F, C, h, w) and time ids (B, 3) of a batch.

    B is 2 with guidance. The first half is unconditional: all zeros, except for the time ids.
    """
    context = conditioning.embedding
    image_latents = conditioning.image_latent[:, None].expand(-1, frames, -1, -1, -1)
    ids = conditioning.time_ids
    if not guided:
        return context, image_latents, ids
    return (
        torch.cat([torch.zeros_like(context), context]),
        torch.cat([torch.zeros_like(image_latents), image_latents]),
        torch.cat([ids, ids]),
    )


def join(latents: Tensor, image_latents: Tensor) -> Tensor:
    """The UNet's input (B, F, 2C, h, w): along the channels, noise latents, then image latents.

    The channels are innermost in memory, which is how the UNet reads them.
    """
    both = latents.expand(len(image_latents), -1, -1, -1, -1), image_latents
    return torch.cat([part.movedim(2, -1) for part in both], dim=-1).movedim(-1, 2)
