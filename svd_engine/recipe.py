"""The functions that compute a clip, gathered in one record so that any of them can be replaced.

The stages call these functions and no others. A trace wraps them to record their results, and a
known mistake (`deviations`) replaces one of them. The engine itself has no branch for either.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from svd_engine import clip, conditioning, picture_pixels, schedule
from svd_engine.conditioning import Conditioning, Noise
from svd_engine.config import ScheduleConfig
from svd_engine.layers import Constants
from svd_engine.params import RenderParams
from svd_engine.picture_pixels import Kernel, Taps, View
from svd_engine.reuse import Reuse
from svd_engine.schedule import StepResult
from svd_engine.unet import UNet
from svd_engine.vae import VAE

Rgb: TypeAlias = tuple[float, float, float]
Sigmas: TypeAlias = tuple[float, ...]
RunDecoder: TypeAlias = Callable[[VAE, Tensor], Tensor]


def constants(
    unet: UNet, timesteps: Tensor, context: Tensor, time_ids: Tensor, frames: int
) -> list[Constants]:
    """`UNet.constants` for each step of timesteps (S,)."""
    of_clips = timesteps[:, None].expand(-1, len(context))
    return unet.constants(of_clips, context, time_ids, frames)


def predict(unet: UNet, sample: Tensor, constants: Constants, reuse: Reuse | None) -> Tensor:
    """`UNet.predict`, or `Reuse.predict`, which may take features of an earlier step."""
    if reuse is None:
        return unet.predict(sample, constants)
    return reuse.predict(unet, sample, constants)


def unscale(latents: Tensor, factor: float) -> Tensor:
    """Latents as the VAE's decoder takes them. Multiplies by the reciprocal, as diffusers does."""
    return (1 / factor) * latents


def decode(vae: VAE, latents: Tensor, run: RunDecoder) -> Tensor:
    """Run the decoder: on the whole clip, in slices, or on this process's share of the clip."""
    return run(vae, latents)


def to_uint8(frames: Tensor) -> Tensor:
    """Frames (F, 3, H, W) in [-1, 1] to (F, H, W, 3), uint8 on the CPU, rounded half to even."""
    pixels = (frames * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu() * 255
    return pixels.round().to(torch.uint8).contiguous()


@dataclass(frozen=True)
class Recipe:
    """The functions of a clip, in the order in which they are called.

    The defaults compute what diffusers' pipeline computes. Each is documented where it is defined.
    """

    draw_noise: Callable[[RenderParams, torch.dtype, int], Noise] = conditioning.draw_noise
    blur: Kernel = picture_pixels.blur
    shrink: Taps = picture_pixels.shrink
    clip_pixels: Callable[[Image.Image | View, Rgb, Rgb, Kernel, Taps], Tensor] = (
        picture_pixels.clip_pixels
    )
    embed: Callable[[clip.ImageEncoder, Tensor], Tensor] = clip.embed
    augment: Callable[[Tensor, Tensor, float], Tensor] = conditioning.augment
    encode_latent: Callable[[VAE, Tensor], Tensor] = conditioning.encode_latent
    time_ids: Callable[[RenderParams], Tensor] = conditioning.time_ids
    sigmas: Callable[[ScheduleConfig, int, Sigmas | None], Tensor] = schedule.make_sigmas
    timesteps: Callable[[Tensor], Tensor] = schedule.make_timesteps
    initial_latents: Callable[[Tensor, ScheduleConfig, Tensor], Tensor] = schedule.initial_latents
    guidance_scales: Callable[[float, float, int, int], Tensor] = schedule.guidance_scales
    pair: Callable[[Conditioning, int, bool], tuple[Tensor, Tensor, Tensor]] = conditioning.pair
    constants: Callable[[UNet, Tensor, Tensor, Tensor, int], list[Constants]] = constants
    scale_input: Callable[[Tensor, Tensor], Tensor] = schedule.scale_input
    join: Callable[[Tensor, Tensor], Tensor] = conditioning.join
    predict: Callable[[UNet, Tensor, Constants, Reuse | None], Tensor] = predict
    guide: Callable[[Tensor, Tensor], Tensor] = schedule.guide
    euler_step: Callable[[Tensor, Tensor, Tensor, Tensor], StepResult] = schedule.euler_step
    unscale: Callable[[Tensor, float], Tensor] = unscale
    decode: Callable[[VAE, Tensor, RunDecoder], Tensor] = decode
    to_uint8: Callable[[Tensor], Tensor] = to_uint8


REFERENCE = Recipe()
# The tier `fast` differs from the reference only in where its steps lie.
FAST = replace(REFERENCE, sigmas=partial(schedule.make_sigmas, spread=schedule.aligned_sigmas))
