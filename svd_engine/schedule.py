"""Sigmas, timesteps, scalings and the Euler step, as pure functions.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", computed as
in diffusers' `EulerDiscreteScheduler` for v-prediction with continuous timesteps. A sigma is a
float32 scalar on the CPU; S steps have S + 1 sigmas.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from svd_engine.config import ScheduleConfig

RHO = 7.0
# Sabour et al. 2024, "Align Your Steps": the levels for SVD in 10 steps, without the ends of the
# published checkpoints, 700 and 0.002.
ALIGNED = (54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034)


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Sigmas (S + 1,) from `sigma_max` to `sigma_min` by eq. 5 of the paper, then 0."""
    ramp = np.linspace(0, 1, steps)
    start, end = sigma_max ** (1 / RHO), sigma_min ** (1 / RHO)
    sigmas = (start + ramp * (end - start)) ** RHO
    return torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))


def aligned_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Sigmas (S + 1,) of Align Your Steps between the checkpoint's ends, with 0 as the last.

    Other numbers of steps are interpolated linearly in ln(sigma), as in the paper.
    """
    levels = [sigma_max, *(at for at in ALIGNED if sigma_min < at < sigma_max), sigma_min]
    places = np.linspace(0, len(levels) - 1, steps + 1)
    sigmas = np.exp(np.interp(places, np.arange(len(levels)), np.log(levels)))
    sigmas[-1] = 0.0
    return torch.from_numpy(sigmas.astype(np.float32))


def make_sigmas(
    config: ScheduleConfig,
    steps: int,
    given: Sequence[float] | None,
    spread: Callable[[int, float, float], Tensor] = karras_sigmas,
) -> Tensor:
    """The given sigmas (S + 1,), or those of `steps` steps spread over the checkpoint's range."""
    if given is not None:
        return torch.tensor(given, dtype=torch.float32)
    return spread(steps, config.sigma_min, config.sigma_max)


def make_timesteps(sigmas: Tensor) -> Tensor:
    """The noise levels (S,) as the UNet takes them: a quarter of ln(sigma)."""
    return 0.25 * sigmas[:-1].log()


def initial_scale(config: ScheduleConfig, sigmas: Tensor) -> Tensor:
    """The factor by which unit noise is multiplied before the first step."""
    largest = sigmas.max()
    return (largest**2 + 1) ** 0.5 if config.timestep_spacing == "leading" else largest


def initial_latents(noise: Tensor, config: ScheduleConfig, sigmas: Tensor) -> Tensor:
    """The latents that denoising starts from."""
    return noise * initial_scale(config, sigmas)


def scale_input(latents: Tensor, sigma: Tensor) -> Tensor:
    """c_in * latents, in the latents' dtype."""
    return latents / (sigma**2 + 1) ** 0.5


def guide(prediction: Tensor, guidance: Tensor) -> Tensor:
    """Classifier-free guidance: (2, F, C, h, w), unconditional first, to (1, F, C, h, w)."""
    unconditional, conditional = prediction.chunk(2)
    scale = guidance[None, :, None, None, None]
    return unconditional + scale * (conditional - unconditional)


def guidance_scales(lowest: float, highest: float, frames: int, steps: int) -> Tensor:
    """A guidance scale for each frame, the same at every step: (S, F), float32."""
    return torch.linspace(lowest, highest, frames).expand(steps, -1)


def denoised(latents: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """The clip without noise, as estimated from the v that was predicted at `sigma`; float32.

    The product with v is computed in the model's dtype.
    """
    return v * (-sigma / (sigma**2 + 1) ** 0.5) + latents.float() / (sigma**2 + 1)


class StepResult(NamedTuple):
    """The result of one denoising step: diffusers' `prev_sample` and `pred_original_sample`."""

    latents: Tensor  # (1, F, C, h, w) at the next sigma, in the model's dtype
    denoised: Tensor  # the same shape: the clip without noise as estimated at this step, float32


def euler_step(latents: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor) -> StepResult:
    """Step from `sigma` to `sigma_next`, along the v that was predicted at `sigma`.

    The update is computed in float32.
    """
    x, estimate = latents.float(), denoised(latents, v, sigma)
    slope = (x - estimate) / sigma
    return StepResult((x + slope * (sigma_next - sigma)).to(v.dtype), estimate)
