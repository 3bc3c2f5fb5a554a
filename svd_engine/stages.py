"""The four stages of a clip. Each can be called alone, and runs on the device of its networks.

Shapes: F frames, H x W pixels, h x w = H/8 x W/8 latent pixels, D embedding width, S steps.
"""

from collections.abc import Iterator
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from svd_engine.clip import ImageEncoder
from svd_engine.conditioning import Conditioning, Noise, frame_shape
from svd_engine.config import PreprocessorConfig, ScheduleConfig
from svd_engine.exact import Seam, decode_slices
from svd_engine.params import RenderParams
from svd_engine.picture_pixels import vae_pixels, view_picture
from svd_engine.recipe import REFERENCE, Recipe
from svd_engine.reuse import Reuse
from svd_engine.schedule import StepResult
from svd_engine.sizes import LATENT_CHANNELS
from svd_engine.tiers import is_whole
from svd_engine.unet import UNet
from svd_engine.vae import VAE


def draw_noise(
    params: RenderParams,
    dtype: torch.dtype,
    latent_channels: int = LATENT_CHANNELS,
    recipe: Recipe = REFERENCE,
) -> Noise:
    """Draw all noise of a clip, from its seed alone; see `conditioning.draw_noise`."""
    return recipe.draw_noise(params, dtype, latent_channels)


@torch.no_grad()
def encode(
    image_encoder: ImageEncoder,
    vae: VAE,
    preprocessor: PreprocessorConfig,
    image: Image.Image,
    noise: Noise,
    params: RenderParams,
    recipe: Recipe = REFERENCE,
) -> Conditioning:
    """Encode an RGB picture: its embedding, and the latent of a noisy copy."""
    width, height, _ = frame_shape(params)
    view = view_picture(image, width, height, params.fit)
    mean, std = preprocessor.image_mean, preprocessor.image_std
    pixels = recipe.clip_pixels(view, mean, std, recipe.blur, recipe.shrink)
    embedding = recipe.embed(image_encoder, pixels)
    clean = vae_pixels(view, width, height)
    noisy = recipe.augment(clean, noise.picture, params.noise_aug_strength)
    latent = recipe.encode_latent(vae, noisy).to(embedding.dtype)
    return Conditioning(embedding, latent, recipe.time_ids(params).to(embedding))


def denoise(
    unet: UNet,
    schedule: ScheduleConfig,
    conditioning: Conditioning,
    latents: Tensor,
    params: RenderParams,
    start: int = 0,
    recipe: Recipe = REFERENCE,
) -> Iterator[StepResult]:
    """Denoise from step `start` on, yielding each step's latents and denoised estimate.

    latents: unit noise if `start` is 0, otherwise the latents (1, F, C, h, w) that step `start`
    begins with. At a whole step there is no other state, so a clip that is stopped there and
    resumed elsewhere is bit-identical on the same kind of device. Raises ValueError for a start
    between two whole steps (`tiers.is_whole`).
    """
    if not 0 <= start <= params.steps:
        raise ValueError(f"start must be a step from 0 to {params.steps}, got {start}")
    interval = params.reuse_interval
    if start < params.steps and not is_whole(start, interval):
        raise ValueError(f"start must be a whole step, a multiple of {interval}, got {start}")
    reuse = Reuse(interval) if interval > 1 else None
    weights = next(unet.parameters())
    frames = latents.shape[1]
    with torch.no_grad():
        sigmas = recipe.sigmas(schedule, params.steps, params.sigmas)
        timesteps = recipe.timesteps(sigmas).to(weights.device)
        latents = latents.to(weights)
        if start == 0:
            latents = recipe.initial_latents(latents, schedule, sigmas)
        context, image_latents, time_ids = recipe.pair(
            conditioning.to(weights.device), frames, params.guided
        )
        constants = recipe.constants(unet, timesteps, context, time_ids, frames)
        guidance = recipe.guidance_scales(*params.guidance, frames, params.steps).to(weights)
    for step in range(start, params.steps):
        with torch.no_grad():  # as a decorator it would hold a step's result during the next one
            sigma, sigma_next = sigmas[step], sigmas[step + 1]
            sample = recipe.join(recipe.scale_input(latents, sigma), image_latents)
            v = recipe.predict(unet, sample, constants[step], reuse)
            v = recipe.guide(v, guidance[step]) if params.guided else v
            latents, denoised = recipe.euler_step(latents, v, sigma, sigma_next)
        yield StepResult(latents, denoised)
        del denoised


@torch.no_grad()
def decode(
    vae: VAE,
    latents: Tensor,
    chunk_size: int | None = None,
    recipe: Recipe = REFERENCE,
    slices: int | None = None,
    seam: Seam | None = None,
) -> Tensor:
    """Decode latents (F, C, h, w) to frames (F, 3, H, W) in [-1, 1], float32.

    chunk_size: None decodes the clip as a whole. A number decodes this many frames at a time, as
    diffusers does; chunks are independent, and their seams are part of the result.
    slices: how many to decode a whole clip in, without changing it; see `exact.decode_slices`. 1 is
    a plain forward pass.
    seam: connects these frames to the rest of the clip in other processes.
    """
    if chunk_size and (slices or seam):
        raise ValueError("slices are for a clip decoded as a whole: leave out decode_chunk_size")
    weights = next(vae.decoder.parameters())
    latents = recipe.unscale(latents.to(weights), vae.config.scaling_factor)
    if chunk_size or (slices == 1 and seam is None):
        chunks = latents.split(chunk_size or len(latents))
        return torch.cat([recipe.decode(vae, chunk, VAE.decode) for chunk in chunks]).float()
    return recipe.decode(vae, latents, partial(decode_slices, slices=slices, seam=seam)).float()


def to_uint8(frames: Tensor, recipe: Recipe = REFERENCE) -> Tensor:
    """Convert frames (F, 3, H, W) in [-1, 1] to (F, H, W, 3), uint8 on the CPU."""
    return recipe.to_uint8(frames)
