"""What a tensor may be instead of the right one: other stages and steps, other ways to compute it.

Like the right one, each is computed from the trace's own tensors. None runs a network.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svd_engine.conditioning import frame_shape
from svd_engine.conformance.replay import STAGES, UNET, Case, MissingTensorError
from svd_engine.conformance.traces import align, split_key, step_key
from svd_engine.deviations import recipe_of
from svd_engine.picture_pixels import CLIP_SIDE, vae_pixels
from svd_engine.schedule import initial_scale

Named: TypeAlias = Iterator[tuple[str, Tensor]]

NEAR = 2  # how many steps away the step of a wrong noise level may be
RHOS = (1, 2, 3, 4, 5, 6, 8, 9, 10)
KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def suspects(case: Case, name: str, step: int) -> Named:
    """Tensors that a stage's result may be instead, each with its description."""
    with suppress(MissingTensorError):  # the trace lacks an input of the remaining ones
        if name in SUSPECTS:
            yield from SUSPECTS[name](case, step)
    yield from _recorded(case, name, step)


def constants_of(case: Case) -> Mapping[str, float]:
    """The numbers that a port may have multiplied by or left out, by name."""
    factor = case.engine.vae.config.scaling_factor
    sigmas = STAGES["sigmas"](case, recipe_of(case.params), 0)
    first = initial_scale(case.engine.schedule, sigmas).item()
    named = {
        "the scaling factor": factor,
        "the initial scale": first,
        "noise_aug_strength": case.params.noise_aug_strength,
    }
    named = {name: value for name, value in named.items() if value > 0}
    every = dict(named)
    for name, value in named.items():
        every |= {f"1 over {name}": 1 / value, f"{name} squared": value**2}
        every |= {f"the root of {name}": value**0.5, f"1 over the root of {name}": value**-0.5}
    return every


def _recorded(case: Case, name: str, step: int) -> Named:
    """Other tensors of the trace in the same shape: of nearby steps, or of the first and last."""
    own = step_key(step, name.removeprefix("step.")) if name.startswith("step.") else name
    shape = tuple(case.trace[own].shape) if own in case.trace else ()
    near = {step - 1, step, step + 1, None}
    for key in case.trace:
        what, at = split_key(key)
        beside = at in near if name.startswith("step.") else at in (None, 0, case.params.steps - 1)
        if key != own and beside and (what == name or what != UNET):
            aligned = align(case.trace[key], shape)
            if aligned is not None:
                yield f"the recorded {key}", aligned[0].float()


def _image_augmented(case: Case, _: int) -> Named:
    width, height, _frames = frame_shape(case.params)
    strength = case.params.noise_aug_strength
    noise = STAGES["image.noise"](case, recipe_of(case.params), 0)
    if "image.noise" in case.trace:
        noise = case.tensor("image.noise", (1, 3, height, width))
    clean = vae_pixels(case.image, width, height)
    yield "the picture without noise", clean
    yield "the picture with noise of the strength squared", clean + strength**2 * noise
    yield "the picture with noise of the root of the strength", clean + strength**0.5 * noise
    yield "the picture less its noise", clean - strength * noise
    yield "the picture in [0, 1], with noise", (clean + 1) / 2 + strength * noise
    yield "the picture in BGR, with noise", clean.flip(1) + strength * noise
    yield "the picture mirrored left to right, with noise", clean.flip(-1) + strength * noise
    for kernel, resample in KERNELS.items():
        pixels = _resized(case.image, (width, height), resample)
        yield f"the picture resized by {kernel}, with noise", pixels + strength * noise


def _resized(image: Image.Image, size: tuple[int, int], kernel: Image.Resampling) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB").resize(size, kernel)))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def _clip_pixels(case: Case, _: int) -> Named:
    chosen = case.engine.preprocessor
    mean = torch.tensor(chosen.image_mean)[:, None, None]
    std = torch.tensor(chosen.image_std)[:, None, None]
    right = STAGES["clip.pixels"](case, recipe_of(case.params), 0)
    yield "normalized twice", (right - mean) / std
    yield "normalized from [-1, 1]", (2 * (right * std + mean) - 1 - mean) / std
    for kernel, resample in KERNELS.items():
        pixels = (_resized(case.image, (CLIP_SIDE, CLIP_SIDE), resample) + 1) / 2
        yield f"the picture resized by {kernel}", (pixels - mean) / std
    width, height = case.image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    middle = case.image.crop((left, top, left + side, top + side))
    pixels = (_resized(middle, (CLIP_SIDE, CLIP_SIDE), KERNELS["bicubic"]) + 1) / 2
    yield "the middle square of the picture, resized by bicubic", (pixels - mean) / std


def _sigmas(case: Case, _: int) -> Named:
    config, steps = case.engine.schedule, case.params.steps
    high, low = config.sigma_max, config.sigma_min
    ramp, end = torch.linspace(0, 1, steps, dtype=torch.float64), torch.zeros(1)
    for rho in RHOS:
        first, last = high ** (1 / rho), low ** (1 / rho)
        levels = (first + ramp * (last - first)) ** rho
        yield f"those of Karras with rho {rho}", torch.cat([levels.float(), end])
    levels = high * (low / high) ** ramp
    yield "spread evenly in their logarithm", torch.cat([levels.float(), end])
    whole = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    first, last = high ** (1 / 7), low ** (1 / 7)
    yield "those of a step more, without the zero", ((first + whole * (last - first)) ** 7).float()


def _timesteps(case: Case, _: int) -> Named:
    sigmas, steps = case.sigmas()[:-1], case.params.steps
    yield "sigma itself", sigmas
    yield "ln(sigma)", sigmas.log()
    yield "0.25 log2(sigma)", 0.25 * sigmas.log2()
    yield "0.25 log10(sigma)", 0.25 * sigmas.log10()
    yield "0.25 ln(1 + sigma)", 0.25 * sigmas.log1p()
    yield "evenly spaced training steps", torch.linspace(999, 0, steps)
    yield "0.25 ln of the next sigma", 0.25 * case.sigmas()[1:].clamp(min=1e-8).log()


def _model_input(case: Case, step: int) -> Named:
    picture = case.tensor("image.latent", (1, *case.shape[1:]))
    recipe, factor = recipe_of(case.params), case.engine.vae.config.scaling_factor
    halves = 2 if case.params.guided else 1
    latents, sigmas = case.latents(step), case.sigmas()

    def joined(scaled: Tensor, image: Tensor) -> Tensor:
        images = image[:, None].expand(halves, case.shape[0], -1, -1, -1).clone()
        images[: halves - 1] = 0
        return recipe.join(scaled, images)

    scaled = recipe.scale_input(latents, sigmas[step])
    yield "made of latents that are not scaled", joined(latents, picture)
    for other in range(max(0, step - NEAR), min(len(sigmas), step + NEAR + 1)):
        if other != step:
            text = f"scaled for the sigma of step {other}, not {step}"
            yield text, joined(recipe.scale_input(latents, sigmas[other]), picture)
    yield "scaled by 1 over sigma", joined(latents / sigmas[step], picture)
    yield (
        "scaled by 1 over sigma squared plus 1",
        joined(latents / (sigmas[step] ** 2 + 1), picture),
    )
    yield "scaled twice", joined(recipe.scale_input(scaled, sigmas[step]), picture)
    yield "with the picture times the scaling factor", joined(scaled, factor * picture)
    yield "with the picture over the scaling factor", joined(scaled, picture / factor)
    yield (
        "with the picture scaled as the latents",
        joined(scaled, recipe.scale_input(picture, sigmas[step])),
    )
    yield "with no picture in either half", joined(scaled, 0 * picture)
    first = joined(scaled, picture)
    first[:, 1:, case.channels :] = 0
    yield "with the picture in the first frame alone", first


def _guided(case: Case, step: int) -> Named:
    output = case.of_step(step, "model_output", case.channels)
    if not case.params.guided:
        return
    unconditional, conditional = output.chunk(2)
    low, high = case.params.guidance
    frames, recipe = case.shape[0], recipe_of(case.params)
    yield "the conditional half alone", conditional
    yield "the unconditional half alone", unconditional
    yield "the mean of the halves", (conditional + unconditional) / 2
    right = torch.linspace(low, high, frames)
    for text, scales in (
        ("in the reverse order of the frames", right.flip(0)),
        (f"of {low:g} at every frame", torch.full((frames,), low)),
        (f"of {high:g} at every frame", torch.full((frames,), high)),
        ("that is 1 too high", right + 1),
        ("that is 1 too low", right - 1),
        (
            "that reaches its maximum a frame late",
            low + (high - low) * torch.arange(frames) / frames,
        ),
    ):
        yield f"a guidance {text}", recipe.guide(output, scales)
    scale = right[None, :, None, None, None]
    yield "guided from the conditional half on", conditional + scale * (conditional - unconditional)
    yield from _mixed(case, step, unconditional, conditional)


def _mixed(case: Case, step: int, unconditional: Tensor, conditional: Tensor) -> Named:
    """The halves mixed with the weights that come nearest to the port's result."""
    theirs = case.tensor(step_key(step, "guided"), (1, *case.shape))
    along, apart = conditional - unconditional, theirs - unconditional
    products, squares = (along * apart).sum((-3, -2, -1)), (along * along).sum((-3, -2, -1))

    def mixed(weights: Tensor) -> Tensor:
        return unconditional + weights[:, None, None, None] * along

    whole = products.sum() / squares.sum()
    yield f"a guidance of {whole:.4g} at every frame", mixed(whole.expand(case.shape[0]))
    each = products[0] / squares[0]
    ends = f"{each[0]:.4g} at the first frame and {each[-1]:.4g} at the last"
    yield f"a guidance of {ends}", mixed(each)


def _latents(case: Case, step: int) -> Named:
    recipe, sigmas, x = recipe_of(case.params), case.sigmas(), case.latents(step)
    v = case.tensor(step_key(step, "guided"), (1, *case.shape))
    yield "the latents before the step", x
    yield "the estimate without noise", recipe.euler_step(x, v, *sigmas[step : step + 2]).denoised
    yield (
        "the step with the prediction's sign turned",
        recipe.euler_step(x, -v, sigmas[step], sigmas[step + 1]).latents,
    )
    last = len(sigmas) - 1
    near = range(max(0, step - NEAR), min(last, step + NEAR + 1) + 1)
    for begin, end in product(near, sorted({*near, last})):
        if (begin, end) != (step, step + 1) and sigmas[begin] > 0:
            text = f"the step of sigma {begin} to {end}, not {step} to {step + 1}"
            yield text, recipe.euler_step(x, v, sigmas[begin], sigmas[end]).latents
    sigma, following = sigmas[step], sigmas[step + 1]
    yield "the prediction read as the clip without noise", v + (x - v) * following / sigma
    yield (
        "the step with c_skip and c_out of sigma 1",
        x + (x - (x / 2 - v / 2**0.5)) / sigma * (following - sigma),
    )
    if case.params.guided:
        for half, name in enumerate(("unconditional", "conditional")):
            alone = case.of_step(step, "model_output", case.channels)[half : half + 1]
            yield (
                f"the step by the {name} half alone",
                recipe.euler_step(x, alone, sigma, following).latents,
            )


def _decode_latents(case: Case, _: int) -> Named:
    for step in range(max(0, case.params.steps - 1 - NEAR), case.params.steps):
        yield (
            f"the latents before step {step}, unscaled",
            case.latents(step)[0] / (case.engine.vae.config.scaling_factor),
        )


def _frames_uint8(case: Case, _: int) -> Named:
    width, height, count = frame_shape(case.params)
    frames = case.tensor("frames", (count, 3, height, width)).permute(0, 2, 3, 1)
    unit = (frames * 0.5 + 0.5).clamp(0, 1)
    yield "frames in [-1, 1] taken as in [0, 1]", (frames.clamp(0, 1) * 255).round()
    yield "frames times 256, truncated", (unit * 256).floor().clamp(max=255)
    yield "frames rounded up", (unit * 255).ceil()
    yield (
        "frames that wrap around where they should be clamped",
        ((frames + 1) * 127.5).round() % 256,
    )
    yield "frames with a gamma of 2.2", (unit ** (1 / 2.2) * 255).round()


SUSPECTS: Mapping[str, Callable[[Case, int], Named]] = {
    "clip.pixels": _clip_pixels,
    "image.augmented": _image_augmented,
    "sigmas": _sigmas,
    "timesteps": _timesteps,
    "step.model_input": _model_input,
    "step.guided": _guided,
    "step.latents": _latents,
    "decode.latents": _decode_latents,
    "frames.uint8": _frames_uint8,
}
