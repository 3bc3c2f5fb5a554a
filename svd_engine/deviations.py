"""The known mistakes of `deviation_catalogue`, each as a small function that changes a recipe.

A change takes a recipe and the clip's parameters, and returns a recipe that makes the mistake as
well. Changes are applied in the catalogue's order, so that any of them can be combined.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from svd_engine.conditioning import Conditioning, Noise, frame_shape, latent_shape, posterior
from svd_engine.config import ScheduleConfig
from svd_engine.layers import Blend, Constants, TimestepEmbedding
from svd_engine.params import RenderParams
from svd_engine.picture_pixels import CLIP_SIDE, Kernel, Taps, View
from svd_engine.recipe import FAST, REFERENCE, Recipe, Rgb, RunDecoder, Sigmas
from svd_engine.reuse import Reuse
from svd_engine.schedule import StepResult
from svd_engine.unet import UNet
from svd_engine.vae import VAE

Change = Callable[[Recipe, RenderParams], Recipe]

# The training schedule of every published SVD.
TRAIN_STEPS, BETAS = 1000, (0.00085, 0.012)


def recipe_of(params: RenderParams) -> Recipe:
    """The recipe of the params' tier, with the mistakes that were asked for."""
    recipe = FAST if params.tier == "fast" else REFERENCE
    for name, change in CHANGES.items():
        if name in params.deviations:
            recipe = change(recipe, params)
    return recipe


def clip_resized_first(recipe: Recipe, params: RenderParams) -> Recipe:
    def clip_pixels(
        picture: Image.Image | View, mean: Rgb, std: Rgb, blur: Kernel, shrink: Taps
    ) -> Tensor:
        width, height, _ = frame_shape(params)
        image = picture.draw() if isinstance(picture, View) else picture
        resized = image.resize((width, height), Image.Resampling.LANCZOS)
        return recipe.clip_pixels(resized, mean, std, blur, shrink)

    return replace(recipe, clip_pixels=clip_pixels)


def clip_not_blurred(recipe: Recipe, _: RenderParams) -> Recipe:
    return replace(recipe, blur=lambda _side: torch.ones(1))


def clip_nearest(recipe: Recipe, _: RenderParams) -> Recipe:
    def shrink(side: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(CLIP_SIDE) * (torch.tensor(float(side)) / CLIP_SIDE)
        return positions.long()[:, None], torch.ones(CLIP_SIDE, 1)

    return replace(recipe, shrink=shrink)


def clip_not_normalized(recipe: Recipe, _: RenderParams) -> Recipe:
    def clip_pixels(
        picture: Image.Image | View, _mean: Rgb, _std: Rgb, blur: Kernel, shrink: Taps
    ) -> Tensor:
        return recipe.clip_pixels(picture, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), blur, shrink)

    return replace(recipe, clip_pixels=clip_pixels)


def noise_order(recipe: Recipe, _: RenderParams) -> Recipe:
    def draw_noise(params: RenderParams, dtype: torch.dtype, channels: int) -> Noise:
        width, height, _frames = frame_shape(params)
        generator = torch.Generator("cpu").manual_seed(params.seed)
        shape = (1, *latent_shape(params, channels))
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
    def sigmas(config: ScheduleConfig, steps: int, given: Sigmas | None) -> Tensor:
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
    def pair(
        conditioning: Conditioning, frames: int, guided: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        context, image_latents, ids = recipe.pair(conditioning, frames, guided)
        return context, image_latents[-1:].expand(len(context), -1, -1, -1, -1), ids

    return replace(recipe, pair=pair)


def unconditional_embedding(recipe: Recipe, _: RenderParams) -> Recipe:
    def pair(
        conditioning: Conditioning, frames: int, guided: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        context, image_latents, ids = recipe.pair(conditioning, frames, guided)
        return context[-1:].expand(len(context), -1, -1), image_latents, ids

    return replace(recipe, pair=pair)


def sine_first(recipe: Recipe, _: RenderParams) -> Recipe:
    def constants(
        unet: UNet, timesteps: Tensor, context: Tensor, time_ids: Tensor, frames: int
    ) -> list[Constants]:
        with _sines_first(unet):
            return recipe.constants(unet, timesteps, context, time_ids, frames)

    return replace(recipe, constants=constants)


@contextmanager
def _sines_first(unet: UNet) -> Iterator[None]:
    """Swap the halves of every sinusoidal embedding that the UNet computes."""

    def swap(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        width = args[0].shape[-1]
        width = unet.config.addition_time_embed_dim if module is unet.add_embedding else width
        return args[0].unflatten(-1, (-1, 2, width // 2)).flip(-2).flatten(-3)

    embeddings = (m for m in unet.modules() if isinstance(m, TimestepEmbedding))
    hooks = [module.register_forward_pre_hook(swap) for module in embeddings]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def norm_eps(recipe: Recipe, _: RenderParams) -> Recipe:
    def predict(unet: UNet, sample: Tensor, constants: Constants, reuse: Reuse | None) -> Tensor:
        with all_set(unet, nn.GroupNorm, "eps", 1e-5):
            return recipe.predict(unet, sample, constants, reuse)

    return replace(recipe, predict=predict)


def halves_swapped(recipe: Recipe, _: RenderParams) -> Recipe:
    def guide(prediction: Tensor, guidance: Tensor) -> Tensor:
        return recipe.guide(prediction.flip(0), guidance)

    return replace(recipe, guide=guide)


def epsilon_for_v(recipe: Recipe, _: RenderParams) -> Recipe:
    def euler_step(latents: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor) -> StepResult:
        x = latents.float()
        return StepResult((x + v * (sigma_next - sigma)).to(v.dtype), x - v * sigma)

    return replace(recipe, euler_step=euler_step)


def decode_not_unscaled(recipe: Recipe, _: RenderParams) -> Recipe:
    return replace(recipe, unscale=lambda latents, _factor: latents)


def decoder_blend(recipe: Recipe, _: RenderParams) -> Recipe:
    def decode(vae: VAE, latents: Tensor, run: RunDecoder) -> Tensor:
        with all_set(vae.decoder, Blend, "switched", False):
            return recipe.decode(vae, latents, run)

    return replace(recipe, decode=decode)


def frames_truncated(recipe: Recipe, _: RenderParams) -> Recipe:
    def to_uint8(frames: Tensor) -> Tensor:
        levels = ((frames * 0.5 + 0.5).clamp(0, 1) * 255).floor()
        return recipe.to_uint8(levels / 127.5 - 1)

    return replace(recipe, to_uint8=to_uint8)


@contextmanager
def all_set(network: nn.Module, kind: type[nn.Module], name: str, value: object) -> Iterator[None]:
    """Set an attribute of all modules of one class, and restore their own values afterwards."""
    before = [(m, getattr(m, name)) for m in network.modules() if isinstance(m, kind)]
    try:
        for module, _ in before:
            setattr(module, name, value)
        yield
    finally:
        for module, own in before:
            setattr(module, name, own)


# In the catalogue's order.
CHANGES: dict[str, Change] = {
    change.__name__: change
    for change in (
        clip_resized_first,
        clip_not_blurred,
        clip_nearest,
        clip_not_normalized,
        noise_order,
        noise_on_latents,
        posterior_sampled,
        image_latent_scaled,
        fps_not_reduced,
        time_ids_order,
        guidance_per_step,
        karras_off,
        timestep_minus_ln,
        initial_scale_missing,
        image_latents_first,
        unconditional_picture,
        unconditional_embedding,
        sine_first,
        norm_eps,
        halves_swapped,
        epsilon_for_v,
        decode_not_unscaled,
        decoder_blend,
        frames_truncated,
    )
}
