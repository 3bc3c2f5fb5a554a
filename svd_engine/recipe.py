"""The functions that a clip is made by, each of which can be replaced from outside.

The stages are written on these. A trace wraps them to listen; a known mistake replaces one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_engine import clip, conditioning, image, schedule
from svd_engine.layers import Constants
from svd_engine.params import RenderParams
from svd_engine.unet import UNet
from svd_engine.vae import VAE


def constants(
    unet: UNet, timesteps: Tensor, context: Tensor, time_ids: Tensor, frames: int
) -> list[Constants]:
    """`UNet.constants` of timesteps (S,), for each step."""
    of_clips = timesteps[:, None].expand(-1, len(context))
    return unet.constants(of_clips, context, time_ids, frames)


def predict(unet: UNet, sample: Tensor, constants: Constants) -> Tensor:
    """`UNet.predict`."""
    return unet.predict(sample, constants)


def unscale(latents: Tensor, factor: float) -> Tensor:
    """Latents as the VAE's decoder knows them; by the reciprocal, as in diffusers."""
    return (1 / factor) * latents


def decode(vae: VAE, latents: Tensor, run: Callable[[VAE, Tensor], Tensor]) -> Tensor:
    """Run the decoder: whole, in slices, or this process's share of it."""
    return run(vae, latents)


def to_uint8(frames: Tensor) -> Tensor:
    """Frames (F, 3, H, W) in [-1, 1] to (F, H, W, 3), uint8 on the CPU, rounded half to even."""
    pixels = (frames * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu() * 255
    return pixels.round().to(torch.uint8).contiguous()


@dataclass(frozen=True)
class Recipe:
    """In the order of use."""

    draw_noise: Callable[..., conditioning.Noise] = conditioning.draw_noise
    clip_pixels: Callable[..., Tensor] = image.clip_pixels
    embed: Callable[..., Tensor] = clip.embed
    augment: Callable[..., Tensor] = conditioning.augment
    encode_latent: Callable[..., Tensor] = conditioning.encode_latent
    time_ids: Callable[..., Tensor] = conditioning.time_ids
    sigmas: Callable[..., Tensor] = schedule.make_sigmas
    timesteps: Callable[..., Tensor] = schedule.make_timesteps
    initial_latents: Callable[..., Tensor] = schedule.initial_latents
    guidance_scales: Callable[..., Tensor] = schedule.guidance_scales
    pair: Callable[..., tuple[Tensor, Tensor, Tensor]] = conditioning.pair
    constants: Callable[..., list[Constants]] = constants
    scale_input: Callable[..., Tensor] = schedule.scale_input
    join: Callable[..., Tensor] = conditioning.join
    predict: Callable[..., Tensor] = predict
    guide: Callable[..., Tensor] = schedule.guide
    euler_step: Callable[..., Tensor] = schedule.euler_step
    unscale: Callable[..., Tensor] = unscale
    decode: Callable[..., Tensor] = decode
    to_uint8: Callable[..., Tensor] = to_uint8


RIGHT = Recipe()


def recipe_of(params: RenderParams) -> Recipe:
    """The right recipe, or one with the mistakes that were asked for."""
    if not params.deviations:
        return RIGHT
    from svd_engine.conformance.deviations import with_deviations

    return with_deviations(params)
