"""What is judged of a trace, stage by stage: each tensor from *their own* inputs to it.

A stage is computed by a recipe, the right one or one with mistakes, on what the trace itself says
the stage was given. So a mistake shows where it was made, and nowhere after.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from svd_engine.conditioning import Conditioning, frame_shape
from svd_engine.conformance.traces import Trace, align, split_key, step_key
from svd_engine.engine import Engine
from svd_engine.image import vae_pixels
from svd_engine.params import RenderParams
from svd_engine.recipe import RIGHT, Recipe


class NeedsError(LookupError):
    """A stage whose inputs are not in the trace; the arguments are their names."""


@dataclass(frozen=True)
class Given:
    """Their trace, and what it was made from. Tensors come in this engine's layouts, in float32."""

    trace: Trace
    engine: Engine
    image: Image.Image  # fitted to the frames' shape
    params: RenderParams  # with nothing left open
    dtype: torch.dtype  # of their model

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, and the height and width of the latents."""
        width, height, frames = frame_shape(self.params)
        return frames, height // 8, width // 8

    def tensor(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """One of theirs; NeedsError where it is not there in any known layout of that shape."""
        if key not in self.trace:
            raise NeedsError(key)
        aligned = align(self.trace[key], shape)
        if aligned is None:
            raise NeedsError(f"{key} of shape {list(shape)}")
        return aligned[0].float()

    def latents(self, step: int) -> Tensor:
        """Those that a step begins with (1, F, C, h, w)."""
        frames, height, width = self.shape
        key = "latents.init" if step == 0 else step_key(step - 1, "latents")
        return self.tensor(key, (1, frames, self.channels, height, width))

    def of_step(self, step: int, what: str, channels: int) -> Tensor:
        """A tensor of both halves of a step, or of the one half where there is no guidance."""
        frames, height, width = self.shape
        halves = 2 if self.params.guided else 1
        return self.tensor(step_key(step, what), (halves, frames, channels, height, width))

    def sigmas(self) -> Tensor:
        """Theirs (S + 1), or the schedule's where they have none."""
        if "sigmas" not in self.trace:
            return sigmas(self, RIGHT, 0)
        return self.tensor("sigmas", (self.params.steps + 1,))

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.engine.vae.config.latent_channels


Compute: TypeAlias = Callable[[Given, Recipe, int], Tensor]


def clip_pixels(given: Given, recipe: Recipe, _: int) -> Tensor:
    preprocessor = given.engine.preprocessor
    return recipe.clip_pixels(given.image, preprocessor.image_mean, preprocessor.image_std)


def clip_embedding(given: Given, recipe: Recipe, _: int) -> Tensor:
    pixels = given.tensor("clip.pixels", (1, 3, 224, 224))
    return recipe.embed(given.engine.image_encoder, pixels)


def image_noise(given: Given, recipe: Recipe, _: int) -> Tensor:
    return recipe.draw_noise(given.params, given.dtype, given.channels).picture


def image_augmented(given: Given, recipe: Recipe, _: int) -> Tensor:
    width, height, _frames = frame_shape(given.params)
    try:
        noise = given.tensor("image.noise", (1, 3, height, width))
    except NeedsError:  # or theirs is of latents
        noise = image_noise(given, recipe, 0)
    clean = vae_pixels(given.image, width, height)
    return recipe.augment(clean, noise, given.params.noise_aug_strength)


def image_latent(given: Given, recipe: Recipe, _: int) -> Tensor:
    width, height, _frames = frame_shape(given.params)
    pixels = given.tensor("image.augmented", (1, 3, height, width))
    return recipe.encode_latent(given.engine.vae, pixels)


def time_ids(given: Given, recipe: Recipe, _: int) -> Tensor:
    return recipe.time_ids(given.params)


def guidance(given: Given, recipe: Recipe, _: int) -> Tensor:
    """(F), or (S) where theirs has one for each step, or (S, F)."""
    params = given.params
    frames = given.shape[0]
    scales = recipe.guidance_scales(*params.guidance, frames, params.steps)
    if given.trace["guidance"].numel() == scales.numel():
        return scales
    return scales[0] if (scales == scales[0]).all() else scales[:, 0]


def sigmas(given: Given, recipe: Recipe, _: int) -> Tensor:
    return recipe.sigmas(given.engine.schedule, given.params.steps, given.params.sigmas)


def timesteps(given: Given, recipe: Recipe, _: int) -> Tensor:
    return recipe.timesteps(given.sigmas())


def latents_init(given: Given, recipe: Recipe, _: int) -> Tensor:
    noise = recipe.draw_noise(given.params, given.dtype, given.channels).latents.float()
    return recipe.initial_latents(noise, given.engine.schedule, given.sigmas())


def model_input(given: Given, recipe: Recipe, step: int) -> Tensor:
    frames, height, width = given.shape
    picture = given.tensor("image.latent", (1, given.channels, height, width))
    nothing = torch.zeros(1, 1, 1), torch.zeros(1, 3)
    told = Conditioning(nothing[0], picture, nothing[1])
    _, image_latents, _ = recipe.pair(told, frames, given.params.guided)
    scaled = recipe.scale_input(given.latents(step), given.sigmas()[step])
    return recipe.join(scaled, image_latents)


def model_output(given: Given, recipe: Recipe, step: int) -> Tensor:
    unet, steps = given.engine.unet, given.params.steps
    frames, height, width = given.shape
    sample = given.of_step(step, "model_input", unet.config.in_channels)
    width_of_context = unet.config.per_block("cross_attention_dim")[0]
    told = Conditioning(
        given.tensor("clip.embedding", (1, 1, width_of_context)),
        torch.zeros(1, given.channels, height, width),
        given.tensor("time_ids", (1, 3)),
    )
    context, _, ids = recipe.pair(told, frames, given.params.guided)
    timestep = given.tensor("timesteps", (steps,))[step]
    place = next(unet.parameters())
    constants = recipe.constants(
        unet, timestep[None].to(place.device), context.to(place), ids.to(place), frames
    )
    return recipe.predict(unet, sample.to(place), constants[0]).cpu()


def guided(given: Given, recipe: Recipe, step: int) -> Tensor:
    frames, steps = given.shape[0], given.params.steps
    output = given.of_step(step, "model_output", given.channels)
    if not given.params.guided:
        return output
    theirs = given.trace.get("guidance")
    if theirs is None:
        scales = recipe.guidance_scales(*given.params.guidance, frames, steps)[step]
    elif theirs.numel() == frames:
        scales = theirs.flatten().float()
    elif theirs.numel() in (steps, steps * frames):
        scales = theirs.float().reshape(steps, -1)[step].expand(frames)
    else:
        raise NeedsError(f"guidance of shape {[frames]}")
    return recipe.guide(output, scales)


def latents(given: Given, recipe: Recipe, step: int) -> Tensor:
    frames, height, width = given.shape
    shape = (1, frames, given.channels, height, width)
    v, levels = given.tensor(step_key(step, "guided"), shape), given.sigmas()
    return recipe.euler_step(given.latents(step), v, levels[step], levels[step + 1])


def decode_latents(given: Given, recipe: Recipe, _: int) -> Tensor:
    last = given.latents(given.params.steps)[0]
    return recipe.unscale(last, given.engine.vae.config.scaling_factor)


def frames(given: Given, recipe: Recipe, _: int) -> Tensor:
    count, height, width = given.shape
    latent = given.tensor("decode.latents", (count, given.channels, height, width))
    as_it_is = replace(recipe, unscale=lambda latents, _factor: latents)
    return given.engine.decode(latent, given.params, as_it_is).cpu().clamp(-1, 1)


def frames_uint8(given: Given, recipe: Recipe, _: int) -> Tensor:
    count, height, width = given.shape
    floats = given.tensor("frames", (count, 3, 8 * height, 8 * width))
    return recipe.to_uint8(floats)


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
    "step.model_output": model_output,
    "step.guided": guided,
    "step.latents": latents,
    "decode.latents": decode_latents,
    "frames": frames,
    "frames.uint8": frames_uint8,
}


def judged_keys(trace: Trace) -> Iterator[tuple[str, str, int]]:
    """Tensors to judge, their stage and step: of the steps the first and the last recorded."""
    steps = {step for _, step in map(split_key, trace) if step is not None}
    kept = {min(steps), max(steps)} if steps else set()
    for key in trace:
        name, step = split_key(key)
        if name in STAGES and (step is None or step in kept):
            yield key, name, step or 0
