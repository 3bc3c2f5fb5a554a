"""What each known mistake does, as a change of the recipe: one small function each.

A change is given a recipe and the clip's parameters, and returns a recipe that makes the mistake as
well. They are made in the catalogue's order, so that any of them go together.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from svd_engine.conditioning import Conditioning, Noise, frame_shape, posterior
from svd_engine.config import ScheduleConfig
from svd_engine.conformance.catalogue import CATALOGUE
from svd_engine.image import CLIP_SIDE, View
from svd_engine.layers import Blend, Constants, TimestepEmbedding
from svd_engine.params import RenderParams
from svd_engine.recipe import RIGHT, Recipe
from svd_engine.unet import UNet
from svd_engine.vae import VAE

Change = Callable[[Recipe, RenderParams], Recipe]

# The training schedule of every published SVD.
TRAIN_STEPS, BETAS = 1000, (0.00085, 0.012)


def with_deviations(params: RenderParams, recipe: Recipe = RIGHT) -> Recipe:
    """The recipe with the mistakes of `params.deviations`."""
    for name in CATALOGUE:
        if name in params.deviations:
            recipe = CHANGES[name](recipe, params)
    return recipe


def clip_resized_first(recipe: Recipe, params: RenderParams) -> Recipe:
    def clip_pixels(picture: Image.Image | View, *args: Any, **how: Any) -> Tensor:
        width, height, _ = frame_shape(params)
        image = picture.draw() if isinstance(picture, View) else picture
        resized = image.resize((width, height), Image.Resampling.LANCZOS)
        return recipe.clip_pixels(resized, *args, **how)

    return replace(recipe, clip_pixels=clip_pixels)


def clip_not_blurred(recipe: Recipe, _: RenderParams) -> Recipe:
    def clip_pixels(*args: Any, **how: Any) -> Tensor:
        return recipe.clip_pixels(*args, **how, blur=lambda _: torch.ones(1))

    return replace(recipe, clip_pixels=clip_pixels)


def clip_nearest(recipe: Recipe, _: RenderParams) -> Recipe:
    def clip_pixels(*args: Any, **how: Any) -> Tensor:
        return recipe.clip_pixels(*args, **how, shrink=nearest)

    return replace(recipe, clip_pixels=clip_pixels)


def nearest(side: int) -> tuple[Tensor, Tensor]:
    positions = torch.arange(CLIP_SIDE) * (torch.tensor(float(side)) / CLIP_SIDE)
    return positions.long()[:, None], torch.ones(CLIP_SIDE, 1)


def clip_not_normalized(recipe: Recipe, _: RenderParams) -> Recipe:
    def clip_pixels(image: Image.Image | View, _mean: Any, _std: Any, **how: Any) -> Tensor:
        return recipe.clip_pixels(image, (0.0,) * 3, (1.0,) * 3, **how)

    return replace(recipe, clip_pixels=clip_pixels)


def noise_order(recipe: Recipe, _: RenderParams) -> Recipe:
    def draw_noise(params: RenderParams, dtype: torch.dtype, channels: int = 4) -> Noise:
        width, height, frames = frame_shape(params)
        generator = torch.Generator("cpu").manual_seed(params.seed)
        shape = (1, frames, channels, height // 8, width // 8)
        latents = torch.randn(shape, generator=generator, dtype=dtype)
        return Noise(torch.randn((1, 3, height, width), generator=generator), latents)

    return replace(recipe, draw_noise=draw_noise)


def noise_on_latents(recipe: Recipe, params: RenderParams) -> Recipe:
    def augment(pixels: Tensor, _noise: Tensor, _strength: float) -> Tensor:
        return pixels

    def encode_latent(vae: VAE, pixels: Tensor) -> Tensor:
        latent = recipe.encode_latent(vae, pixels)
        return latent + params.noise_aug_strength * _unit_noise(params.seed, latent)

    return replace(recipe, augment=augment, encode_latent=encode_latent)


def posterior_sampled(recipe: Recipe, params: RenderParams) -> Recipe:
    def encode_latent(vae: VAE, pixels: Tensor) -> Tensor:
        latent, (_, log_variance) = recipe.encode_latent(vae, pixels), posterior(vae, pixels)
        spread = (0.5 * log_variance.clamp(-30, 20)).exp()
        return latent + spread * _unit_noise(params.seed + 1, latent)

    return replace(recipe, encode_latent=encode_latent)


def _unit_noise(seed: int, like: Tensor) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed % 2**64)
    return torch.randn(like.shape, generator=generator).to(like)


def image_latent_scaled(recipe: Recipe, _: RenderParams) -> Recipe:
    def encode_latent(vae: VAE, pixels: Tensor) -> Tensor:
        return recipe.encode_latent(vae, pixels) * vae.config.scaling_factor

    return replace(recipe, encode_latent=encode_latent)


def fps_not_reduced(recipe: Recipe, _: RenderParams) -> Recipe:
    def time_ids(params: RenderParams) -> Tensor:
        return recipe.time_ids(params.model_copy(update={"fps": params.fps + 1}))

    return replace(recipe, time_ids=time_ids)


def time_ids_order(recipe: Recipe, _: RenderParams) -> Recipe:
    def time_ids(params: RenderParams) -> Tensor:
        return recipe.time_ids(params)[:, [1, 0, 2]]

    return replace(recipe, time_ids=time_ids)


def guidance_per_step(recipe: Recipe, _: RenderParams) -> Recipe:
    def guidance_scales(lowest: float, highest: float, frames: int, steps: int) -> Tensor:
        return torch.linspace(lowest, highest, steps)[:, None].expand(-1, frames)

    return replace(recipe, guidance_scales=guidance_scales)


def karras_off(recipe: Recipe, _: RenderParams) -> Recipe:
    def sigmas(config: ScheduleConfig, steps: int, given: Any) -> Tensor:
        if given is not None:
            return recipe.sigmas(config, steps, given)
        betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, TRAIN_STEPS) ** 2
        kept = (1 - betas).cumprod(0).double().numpy()
        at = np.linspace(TRAIN_STEPS - 1, 0, steps)
        levels = np.interp(at, np.arange(TRAIN_STEPS), ((1 - kept) / kept) ** 0.5)
        return torch.from_numpy(np.append(levels, 0.0).astype(np.float32))

    return replace(recipe, sigmas=sigmas)


def timestep_minus_ln(recipe: Recipe, _: RenderParams) -> Recipe:
    return replace(recipe, timesteps=lambda sigmas: -4 * recipe.timesteps(sigmas))


def initial_scale_missing(recipe: Recipe, _: RenderParams) -> Recipe:
    return replace(recipe, initial_latents=lambda noise, _config, _sigmas: noise)


def image_latents_first(recipe: Recipe, _: RenderParams) -> Recipe:
    def join(latents: Tensor, image_latents: Tensor) -> Tensor:
        return torch.cat(recipe.join(latents, image_latents).chunk(2, dim=2)[::-1], dim=2)

    return replace(recipe, join=join)


def unconditional_picture(recipe: Recipe, _: RenderParams) -> Recipe:
    def pair(told: Conditioning, frames: int, guided: bool) -> tuple[Tensor, Tensor, Tensor]:
        context, image_latents, ids = recipe.pair(told, frames, guided)
        return context, image_latents[-1:].expand(len(context), -1, -1, -1, -1), ids

    return replace(recipe, pair=pair)


def unconditional_embedding(recipe: Recipe, _: RenderParams) -> Recipe:
    def pair(told: Conditioning, frames: int, guided: bool) -> tuple[Tensor, Tensor, Tensor]:
        context, image_latents, ids = recipe.pair(told, frames, guided)
        return context[-1:].expand(len(context), -1, -1), image_latents, ids

    return replace(recipe, pair=pair)


def sine_first(recipe: Recipe, _: RenderParams) -> Recipe:
    def constants(unet: UNet, *args: Any) -> list[Constants]:
        with _sines_first(unet):
            return recipe.constants(unet, *args)

    return replace(recipe, constants=constants)


@contextmanager
def _sines_first(unet: UNet) -> Iterator[None]:
    """Turn the halves of every sinusoid that the UNet embeds."""

    def turn(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        width = args[0].shape[-1]
        width = unet.config.addition_time_embed_dim if module is unet.add_embedding else width
        return args[0].unflatten(-1, (-1, 2, width // 2)).flip(-2).flatten(-3)

    embeddings = (m for m in unet.modules() if isinstance(m, TimestepEmbedding))
    hooks = [module.register_forward_pre_hook(turn) for module in embeddings]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def norm_eps(recipe: Recipe, _: RenderParams) -> Recipe:
    def predict(unet: UNet, *args: Any) -> Tensor:
        norms = [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]
        with _set(norms, "eps", [1e-5] * len(norms)):
            return recipe.predict(unet, *args)

    return replace(recipe, predict=predict)


def halves_swapped(recipe: Recipe, _: RenderParams) -> Recipe:
    def guide(prediction: Tensor, guidance: Tensor) -> Tensor:
        return recipe.guide(prediction.flip(0), guidance)

    return replace(recipe, guide=guide)


def epsilon_for_v(recipe: Recipe, _: RenderParams) -> Recipe:
    def euler_step(latents: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return (latents.float() + v * (sigma_next - sigma)).to(v.dtype)

    return replace(recipe, euler_step=euler_step)


def decode_not_unscaled(recipe: Recipe, _: RenderParams) -> Recipe:
    return replace(recipe, unscale=lambda latents, _factor: latents)


def decoder_blend(recipe: Recipe, _: RenderParams) -> Recipe:
    def decode(vae: VAE, *args: Any) -> Tensor:
        blends = [module for module in vae.decoder.modules() if isinstance(module, Blend)]
        with _set(blends, "switched", [False] * len(blends)):
            return recipe.decode(vae, *args)

    return replace(recipe, decode=decode)


def frames_truncated(recipe: Recipe, _: RenderParams) -> Recipe:
    def to_uint8(frames: Tensor) -> Tensor:
        levels = ((frames * 0.5 + 0.5).clamp(0, 1) * 255).floor()
        return recipe.to_uint8(levels / 127.5 - 1)

    return replace(recipe, to_uint8=to_uint8)


@contextmanager
def _set(modules: list[Any], name: str, values: list[Any]) -> Iterator[None]:
    """Let an attribute of modules be another for a while."""
    before = [getattr(module, name) for module in modules]
    try:
        for module, value in zip(modules, values, strict=True):
            setattr(module, name, value)
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            setattr(module, name, value)


CHANGES: dict[str, Change] = {name: globals()[name] for name in CATALOGUE}
