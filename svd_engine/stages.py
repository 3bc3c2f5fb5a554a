"""The four stages of a clip, each callable alone, on the device of the network it is given.

Shapes: F frames, H x W pixels, h x w = H/8 x W/8 latent pixels, D embedding width, S steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from svd_engine.clip import embed
from svd_engine.config import PreprocessorConfig, ScheduleConfig
from svd_engine.image import clip_pixels, fit_picture, vae_pixels
from svd_engine.params import RenderParams
from svd_engine.schedule import (
    euler_step,
    guidance_scales,
    guide,
    initial_scale,
    make_sigmas,
    make_timesteps,
    scale_input,
)
from svd_engine.unet import UNet
from svd_engine.vae import VAE

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection


@dataclass(frozen=True)
class Noise:
    """All noise of one clip, on the CPU."""

    picture: Tensor  # (1, 3, H, W), float32
    latents: Tensor  # (1, F, 4, h, w), model dtype


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told of the picture and of the clip wanted."""

    embedding: Tensor  # (1, 1, D)
    image_latent: Tensor  # (1, 4, h, w), unscaled
    time_ids: Tensor  # (1, 3): fps - 1, motion bucket, augmentation strength

    def to(self, device: torch.device) -> "Conditioning":
        """The same on `device`."""
        return Conditioning(
            self.embedding.to(device), self.image_latent.to(device), self.time_ids.to(device)
        )


def draw_noise(params: RenderParams, dtype: torch.dtype, latent_channels: int = 4) -> Noise:
    """The clip's noise, from its seed alone: the picture's first, then the latents'.

    The picture's is drawn even where its strength is 0; so in diffusers, and so for the latents
    to stay the same.
    """
    width, height, frames = frame_shape(params)
    generator = torch.Generator("cpu").manual_seed(params.seed)
    picture = torch.randn((1, 3, height, width), generator=generator, dtype=torch.float32)
    shape = (1, frames, latent_channels, height // 8, width // 8)
    return Noise(picture, torch.randn(shape, generator=generator, dtype=dtype))


def frame_shape(params: RenderParams) -> tuple[int, int, int]:
    """Width, height and frames; ValueError where `RenderParams.resolve` has not filled them in."""
    if params.width is None or params.height is None or params.num_frames is None:
        raise ValueError("width, height and num_frames are open: call params.resolve(defaults)")
    return params.width, params.height, params.num_frames


@torch.no_grad()
def encode(
    image_encoder: "CLIPVisionModelWithProjection",
    vae: VAE,
    preprocessor: PreprocessorConfig,
    image: Image.Image,
    noise: Noise,
    params: RenderParams,
) -> Conditioning:
    """An RGB picture to its conditioning: the embedding, and the latent of a noisy copy."""
    width, height, _ = frame_shape(params)
    image = fit_picture(image, width, height, params.fit)
    pixels = clip_pixels(image, preprocessor.image_mean, preprocessor.image_std)
    embedding = embed(image_encoder, pixels)
    noisy = vae_pixels(image, width, height) + params.noise_aug_strength * noise.picture
    latent = encode_latent(vae, noisy).to(embedding.dtype)
    time_ids = torch.tensor(
        [[params.fps - 1, params.motion_bucket_id, params.noise_aug_strength]],
        dtype=embedding.dtype,
        device=embedding.device,
    )
    return Conditioning(embedding, latent, time_ids)


@torch.no_grad()
def encode_latent(vae: VAE, pixels: Tensor) -> Tensor:
    """Pixels (1, 3, H, W) in [-1, 1], float32, to the mean of their posterior (1, 4, h, w).

    A float16 VAE that overflows (`force_upcast`) encodes in float32 with its own weights.
    """
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


@torch.no_grad()
def denoise(
    unet: UNet,
    schedule: ScheduleConfig,
    conditioning: Conditioning,
    latents: Tensor,
    params: RenderParams,
    start: int = 0,
) -> Iterator[Tensor]:
    """Denoise, yielding the latents (1, F, 4, h, w) after each step from `start` to the last.

    latents: unit noise where `start` is 0, else what this yielded `start` steps in. There is no
    other state: stopped, moved and resumed, the result is bit-identical on the same kind of device.
    """
    if not 0 <= start <= params.steps:
        raise ValueError(f"start must be a step from 0 to {params.steps}, got {start}")
    weights = next(unet.parameters())
    frames = latents.shape[1]
    sigmas = make_sigmas(schedule, params.steps, params.sigmas)
    timesteps = make_timesteps(sigmas).to(weights.device)
    latents = latents.to(weights)
    if start == 0:
        latents = latents * initial_scale(schedule, sigmas)
    context, image_latents, time_ids = _unet_conditioning(
        conditioning.to(weights.device), frames, params.guided
    )
    guidance = guidance_scales(params.min_guidance_scale, params.max_guidance_scale, frames)
    guidance = guidance.to(weights)
    for step in range(start, params.steps):
        sigma, sigma_next = sigmas[step], sigmas[step + 1]
        scaled = scale_input(latents, sigma).expand(len(context), -1, -1, -1, -1)
        sample = torch.cat([scaled, image_latents], dim=2)
        v = unet(sample, timesteps[step], context, time_ids)
        v = guide(v, guidance) if params.guided else v
        latents = euler_step(latents, v, sigma, sigma_next)
        yield latents


def _unet_conditioning(
    conditioning: Conditioning, frames: int, guided: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Context (B, 1, D), image latents (B, F, 4, h, w), time ids (B, 3).

    B is 2 with guidance: first the unconditional half, all zeros but for the time ids.
    """
    context = conditioning.embedding
    image_latents = conditioning.image_latent[:, None].expand(-1, frames, -1, -1, -1)
    time_ids = conditioning.time_ids
    if not guided:
        return context, image_latents, time_ids
    return (
        torch.cat([torch.zeros_like(context), context]),
        torch.cat([torch.zeros_like(image_latents), image_latents]),
        torch.cat([time_ids, time_ids]),
    )


@torch.no_grad()
def decode(vae: VAE, latents: Tensor, chunk_size: int | None = None) -> Tensor:
    """Latents (F, 4, h, w) to frames (F, 3, H, W) in [-1, 1], float32.

    chunk_size: None decodes the clip as one; a number decodes so many frames at a time, as
    diffusers does, each chunk blind to the next: the seams are part of the result.
    """
    weights = next(vae.decoder.parameters())
    chunks = latents.to(weights).split(chunk_size or len(latents))
    return torch.cat([vae.decode(chunk) for chunk in chunks]).float()


def to_uint8(frames: Tensor) -> Tensor:
    """Frames (F, 3, H, W) in [-1, 1] to (F, H, W, 3), uint8 on the CPU, rounded half to even."""
    pixels = (frames * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu() * 255
    return pixels.round().to(torch.uint8).contiguous()
