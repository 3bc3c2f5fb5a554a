"""Replays a trace stage by stage: each tensor is computed again from the trace's own inputs to it.

A stage is computed by a recipe, either the reference or one with mistakes. Because its inputs come
from the trace itself, a mistake shows where it was made and nowhere after.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from svd_engine.conditioning import Conditioning, frame_shape, latent_shape
from svd_engine.conformance.traces import Trace, align, split_key, step_key
from svd_engine.deviations import recipe_of
from svd_engine.engine import Engine
from svd_engine.params import RenderParams
from svd_engine.picture_pixels import CLIP_SIDE, vae_pixels
from svd_engine.recipe import Recipe
from svd_engine.reuse import Reuse


class MissingTensorError(LookupError):
    """A stage cannot be replayed because the trace lacks an input. The argument is its name."""


@dataclass(frozen=True)
class Case:
    """A port's trace to diagnose, and what the port was asked to render.

    Its methods return the port's tensors in this engine's layouts, in float32.
    """

    trace: Trace
    engine: Engine
    image: Image.Image  # in the shape of the frames
    params: RenderParams  # resolved
    dtype: torch.dtype  # of the port's model
    guessed: Mapping[str, str] = field(default_factory=dict)  # our names, by the port's own

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the clip's latents: frames, channels, height and width."""
        return latent_shape(self.params, self.engine.vae.config.latent_channels)

    def tensor(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of the trace, in this shape.

        Raises MissingTensorError if it is absent, or in no known layout of this shape.
        """
        if key not in self.trace:
            raise MissingTensorError(key)
        aligned = align(self.trace[key], shape)
        if aligned is None:
            raise MissingTensorError(f"{key} of shape {list(shape)}")
        return aligned[0].float()

    def latents(self, step: int) -> Tensor:
        """The latents (1, F, C, h, w) that a step begins with."""
        key = "latents.init" if step == 0 else step_key(step - 1, "latents")
        return self.tensor(key, (1, *self.shape))

    def of_step(self, step: int, what: str, channels: int) -> Tensor:
        """A step's tensor of both halves of the batch, or of the only half without guidance."""
        frames, _, height, width = self.shape
        halves = 2 if self.params.guided else 1
        return self.tensor(step_key(step, what), (halves, frames, channels, height, width))

    def sigmas(self) -> Tensor:
        """The trace's sigmas (S + 1), or the schedule's if it has none."""
        if "sigmas" not in self.trace:
            return sigmas(self, recipe_of(self.params), 0)
        return self.tensor("sigmas", (self.params.steps + 1,))

    @property
    def channels(self) -> int:
        """The channels of a latent."""
        return self.engine.vae.config.latent_channels


Compute: TypeAlias = Callable[[Case, Recipe, int], Tensor]


def clip_pixels(case: Case, recipe: Recipe, _: int) -> Tensor:
    mean, std = case.engine.preprocessor.image_mean, case.engine.preprocessor.image_std
    return recipe.clip_pixels(case.image, mean, std, recipe.blur, recipe.shrink)


def clip_embedding(case: Case, recipe: Recipe, _: int) -> Tensor:
    pixels = case.tensor("clip.pixels", (1, 3, CLIP_SIDE, CLIP_SIDE))
    return recipe.embed(case.engine.image_encoder, pixels)


def image_noise(case: Case, recipe: Recipe, _: int) -> Tensor:
    return recipe.draw_noise(case.params, case.dtype, case.channels).picture


def image_augmented(case: Case, recipe: Recipe, _: int) -> Tensor:
    width, height, _frames = frame_shape(case.params)
    try:
        noise = case.tensor("image.noise", (1, 3, height, width))
    except MissingTensorError:  # absent, or in the shape of latents
        noise = image_noise(case, recipe, 0)
    clean = vae_pixels(case.image, width, height)
    return recipe.augment(clean, noise, case.params.noise_aug_strength)


def image_latent(case: Case, recipe: Recipe, _: int) -> Tensor:
    width, height, _frames = frame_shape(case.params)
    pixels = case.tensor("image.augmented", (1, 3, height, width))
    return recipe.encode_latent(case.engine.vae, pixels)


def time_ids(case: Case, recipe: Recipe, _: int) -> Tensor:
    return recipe.time_ids(case.params)


def guidance(case: Case, recipe: Recipe, _: int) -> Tensor:
    """Scales (F), or in the trace's own shape if it has one for each step: (S) or (S, F)."""
    params = case.params
    frames = case.shape[0]
    scales = recipe.guidance_scales(*params.guidance, frames, params.steps)
    if case.trace["guidance"].numel() == scales.numel():
        return scales
    return scales[0] if (scales == scales[0]).all() else scales[:, 0]


def sigmas(case: Case, recipe: Recipe, _: int) -> Tensor:
    return recipe.sigmas(case.engine.schedule, case.params.steps, case.params.sigmas)


def timesteps(case: Case, recipe: Recipe, _: int) -> Tensor:
    return recipe.timesteps(case.sigmas())


def latents_init(case: Case, recipe: Recipe, _: int) -> Tensor:
    noise = recipe.draw_noise(case.params, case.dtype, case.channels).latents.float()
    return recipe.initial_latents(noise, case.engine.schedule, case.sigmas())


def model_input(case: Case, recipe: Recipe, step: int) -> Tensor:
    frames, *of_frame = case.shape
    picture = case.tensor("image.latent", (1, *of_frame))
    conditioning = Conditioning(torch.zeros(1, 1, 1), picture, torch.zeros(1, 3))
    _, image_latents, _ = recipe.pair(conditioning, frames, case.params.guided)
    scaled = recipe.scale_input(case.latents(step), case.sigmas()[step])
    return recipe.join(scaled, image_latents)


def model_output(case: Case, recipe: Recipe, step: int) -> Tensor:
    """For a step that reuses features, the whole step before it is replayed first."""
    unet, interval = case.engine.unet, case.params.reuse_interval
    frames, *of_frame = case.shape
    width_of_context = unet.config.per_block("cross_attention_dim")[0]
    conditioning = Conditioning(
        case.tensor("clip.embedding", (1, 1, width_of_context)),
        torch.zeros(1, *of_frame),
        case.tensor("time_ids", (1, 3)),
    )
    context, _, ids = recipe.pair(conditioning, frames, case.params.guided)
    timesteps = case.tensor("timesteps", (case.params.steps,))
    weights, reuse = next(unet.parameters()), Reuse(interval)
    for at in sorted({step - step % interval, step}):
        sample = case.of_step(at, "model_input", unet.config.in_channels).to(weights)
        timestep = timesteps[at, None].to(weights.device)
        constants = recipe.constants(unet, timestep, context.to(weights), ids.to(weights), frames)
        v = recipe.predict(unet, sample, constants[0], reuse)
    return v.cpu()


def guided(case: Case, recipe: Recipe, step: int) -> Tensor:
    frames, steps = case.shape[0], case.params.steps
    output = case.of_step(step, "model_output", case.channels)
    if not case.params.guided:
        return output
    theirs = case.trace.get("guidance")
    if theirs is None:
        scales = recipe.guidance_scales(*case.params.guidance, frames, steps)[step]
    elif theirs.numel() == frames:
        scales = theirs.flatten().float()
    elif theirs.numel() in (steps, steps * frames):
        scales = theirs.float().reshape(steps, -1)[step].expand(frames)
    else:
        raise MissingTensorError(f"guidance of shape {[frames]}")
    return recipe.guide(output, scales)


def latents(case: Case, recipe: Recipe, step: int) -> Tensor:
    v, levels = case.tensor(step_key(step, "guided"), (1, *case.shape)), case.sigmas()
    return recipe.euler_step(case.latents(step), v, levels[step], levels[step + 1]).latents


def decode_latents(case: Case, recipe: Recipe, _: int) -> Tensor:
    last = case.latents(case.params.steps)[0]
    return recipe.unscale(last, case.engine.vae.config.scaling_factor)


def frames(case: Case, recipe: Recipe, _: int) -> Tensor:
    latents = case.tensor("decode.latents", case.shape)  # they are unscaled already
    unscaled = replace(recipe, unscale=lambda latents, _factor: latents)
    return case.engine.decode(latents, case.params, unscaled).cpu().clamp(-1, 1)


def frames_uint8(case: Case, recipe: Recipe, _: int) -> Tensor:
    width, height, frames = frame_shape(case.params)
    floats = case.tensor("frames", (frames, 3, height, width))
    return recipe.to_uint8(floats)


UNET = "step.model_output"  # the costly stage of a step
STAGES: Mapping[str, Compute] = {
    "clip.pixels": clip_pixels,
    "clip.embedding": clip_embedding,
    "image.noise": image_noise,
    "image.augmented": image_augmented,
    "image.latent": image_latent,
    "time_ids": time_ids,
    "guidance": guidance,
    "sigmas": sigmas,
    "timesteps": timesteps,
    "latents.init": latents_init,
    "step.model_input": model_input,
    UNET: model_output,
    "step.guided": guided,
    "step.latents": latents,
    "decode.latents": decode_latents,
    "frames": frames,
    "frames.uint8": frames_uint8,
}


def replayable_keys(trace: Trace) -> Iterator[tuple[str, str, int]]:
    """The tensors of known names, each with its stage and step, in the order of computation."""
    for key in trace:
        name, step = split_key(key)
        if name in STAGES:
            yield key, name, step or 0
