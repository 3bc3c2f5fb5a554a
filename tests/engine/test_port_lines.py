"""The lines that a diagnosis shows: Python's compute what the engine does with and without them.

Those of `ONLY_PARSED` have no result of their own. Rust's are only checked for their brackets.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as pipeline
from torch import Tensor

from svd_engine import RenderParams
from svd_engine.conditioning import Conditioning
from svd_engine.config import ScheduleConfig
from svd_engine.conformance.port_lines import LANGUAGES, lines_of
from svd_engine.conformance.python_lines import PYTHON
from svd_engine.conformance.rust_lines import RUST
from svd_engine.deviation_catalogue import CATALOGUE
from svd_engine.deviations import recipe_of
from svd_engine.layers import Blend, sinusoid
from svd_engine.picture_pixels import vae_pixels
from svd_engine.recipe import REFERENCE, Recipe
from tests.conftest import draw_picture

ONLY_PARSED = {"clip_resized_first", "norm_eps"}
FRAMES, STEPS, STEP, HEIGHT, WIDTH = 4, 6, 2, 32, 48
PARAMS = RenderParams(
    seed=11,
    fps=7,
    motion_bucket_id=127,
    num_frames=FRAMES,
    num_inference_steps=STEPS,
    height=HEIGHT,
    width=WIDTH,
)
SCHEDULE = ScheduleConfig(
    prediction_type="v_prediction",
    timestep_type="continuous",
    use_karras_sigmas=True,
    timestep_spacing="leading",
    sigma_min=0.002,
    sigma_max=700.0,
)
PICTURE = draw_picture(640, 400)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
ZEROS, ONES, FACTOR = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.18215


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PIXELS, LATENTS = drawn(1, 3, HEIGHT, WIDTH), drawn(1, FRAMES, 4, 4, 6, seed=1)
PICTURE_LATENT, EMBEDDING = drawn(1, 4, 4, 6, seed=2), drawn(1, 1, 8, seed=3)
BATCH, V = drawn(2, FRAMES, 4, 4, 6, seed=4), drawn(1, FRAMES, 4, 4, 6, seed=5)
SIGMA, SIGMAS, TIMES, MIX = torch.tensor(3.0), torch.tensor([700.0, 1.0]), drawn(5), drawn(1)
UNCOND, COND = BATCH.chunk(2)
CONDITIONING = Conditioning(EMBEDDING, PICTURE_LATENT, torch.zeros(1, 3))


def moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Stands for the VAE's encoder: a mean and a log variance."""
    small = F.avg_pool2d(pixels, 8)
    return torch.cat([small, small[:, :1]], 1), torch.cat([small[:, :1], small], 1) - 2


VAE_OF_ENGINE: Any = SimpleNamespace(
    parameters=lambda: iter([torch.zeros(1)]),
    encode=moments,
    config=SimpleNamespace(force_upcast=False, scaling_factor=FACTOR),
)
VAE_OF_DIFFUSERS = SimpleNamespace(
    encode=lambda x: SimpleNamespace(
        latent_dist=DiagonalGaussianDistribution(torch.cat(moments(x), 1))
    ),
    decode=lambda x, num_frames: SimpleNamespace(sample=x[:num_frames]),
    config=SimpleNamespace(scaling_factor=FACTOR),
)


def blurred(pixels: Tensor, sizes: list[int], sigmas: list[float]) -> Tensor:
    """diffusers' own blur."""
    return pipeline._gaussian_blur2d(pixels, sizes, tuple(sigmas))


def of_clip(recipe: Recipe, blurs: bool = True) -> Tensor:
    blur = recipe.blur if blurs else lambda _side: torch.ones(1)
    return recipe.clip_pixels(PICTURE, ZEROS, ONES, blur, recipe.shrink) * 2 - 1


def of_picture(recipe: Recipe) -> Tensor:
    noise = drawn(*PIXELS.shape, seed=PARAMS.seed)
    pixels = recipe.augment(PIXELS, noise, PARAMS.noise_aug_strength)
    return recipe.encode_latent(VAE_OF_ENGINE, pixels)


def of_noise(recipe: Recipe) -> Tensor:
    noise = recipe.draw_noise(PARAMS, torch.float32, 4)
    return torch.cat([noise.picture.flatten(), noise.latents.flatten()])


def of_sines(recipe: Recipe) -> Tensor:
    right = sinusoid(TIMES, 8)
    return right if recipe is REFERENCE else right.roll(4, -1)


def of_blend(recipe: Recipe) -> Tensor:
    blend = Blend(switched=recipe is REFERENCE)
    with torch.no_grad():
        blend.mix_factor.copy_(MIX)
        return blend.add(UNCOND, COND - UNCOND)


@dataclass(frozen=True)
class Case:
    """What lines take, what they give, and what the engine computes in their place."""

    given: dict[str, Any]
    result: str  # an expression
    engine: Callable[[Recipe], Tensor]


FREQUENCIES = torch.exp(-np.log(10_000) * torch.arange(4) / 4)
IDS = {"fps": 7, "motion_bucket_id": 127, "noise_aug_strength": PARAMS.noise_aug_strength}
PICTURE_OF_VAE = {"pixels": PIXELS, "vae": VAE_OF_DIFFUSERS, **IDS}
OPENED = vae_pixels(PICTURE, *PICTURE.size)
SCALES = {"min_guidance_scale": 1.0, "max_guidance_scale": 3.0, "num_frames": FRAMES}
CASES = {
    "clip_not_blurred": Case({"pixels": OPENED, "gaussian_blur": blurred}, "pixels", of_clip),
    "clip_nearest": Case({"pixels": OPENED}, "pixels", lambda r: of_clip(r, blurs=False)),
    "clip_not_normalized": Case(
        {"pixels": of_clip(REFERENCE)},
        "pixels",
        lambda r: r.clip_pixels(PICTURE, MEAN, STD, r.blur, r.shrink),
    ),
    "noise_order": Case(
        {"pixels": PIXELS, "latents_shape": LATENTS.shape},
        "torch.cat([noise.flatten(), latents.flatten()])",
        of_noise,
    ),
    "noise_on_latents": Case(PICTURE_OF_VAE, "image_latents", of_picture),
    "posterior_sampled": Case(
        {**PICTURE_OF_VAE, "generator": lambda: torch.Generator().manual_seed(PARAMS.seed + 1)},
        "image_latents",
        lambda r: r.encode_latent(VAE_OF_ENGINE, PIXELS),
    ),
    "image_latent_scaled": Case(
        PICTURE_OF_VAE, "image_latents", lambda r: r.encode_latent(VAE_OF_ENGINE, PIXELS)
    ),
    "fps_not_reduced": Case(IDS, "added_time_ids", lambda r: r.time_ids(PARAMS)),
    "time_ids_order": Case(IDS, "added_time_ids", lambda r: r.time_ids(PARAMS)),
    "guidance_per_step": Case(
        {**SCALES, "num_inference_steps": STEPS, "i": STEP, "uncond": UNCOND, "cond": COND},
        "noise_pred",
        lambda r: r.guide(BATCH, r.guidance_scales(1.0, 3.0, FRAMES, STEPS)[STEP]),
    ),
    "karras_off": Case(
        {"num_inference_steps": STEPS, "sigma_max": 700.0, "sigma_min": 0.002},
        "torch.from_numpy(sigmas).float()",
        lambda r: r.sigmas(SCHEDULE, STEPS, None),
    ),
    "timestep_minus_ln": Case(
        {"sigma": SIGMA}, "timestep", lambda r: r.timesteps(torch.stack([SIGMA, SIGMA]))[0]
    ),
    "initial_scale_missing": Case(
        {"noise": LATENTS, "sigmas": SIGMAS},
        "latents",
        lambda r: r.initial_latents(LATENTS, SCHEDULE, SIGMAS),
    ),
    "image_latents_first": Case(
        {"latent_model_input": BATCH, "image_latents": BATCH.flip(0)},
        "latent_model_input",
        lambda r: r.join(BATCH, BATCH.flip(0)),
    ),
    "unconditional_picture": Case(
        {"image_latents": PICTURE_LATENT[:, None].expand(-1, FRAMES, -1, -1, -1)},
        "image_latents",
        lambda r: r.pair(CONDITIONING, FRAMES, True)[1],
    ),
    "unconditional_embedding": Case(
        {"image_embeddings": EMBEDDING},
        "image_embeddings",
        lambda r: r.pair(CONDITIONING, FRAMES, True)[0],
    ),
    "sine_first": Case({"emb": TIMES[:, None] * FREQUENCIES}, "emb", of_sines),
    "halves_swapped": Case(
        {"noise_pred": BATCH},
        "uncond + 3 * (cond - uncond)",
        lambda r: r.guide(BATCH, torch.full((FRAMES,), 3.0)),
    ),
    "epsilon_for_v": Case(
        {"sample": LATENTS, "model_output": V, "sigma": SIGMA},
        "denoised",
        lambda r: r.euler_step(LATENTS, V, SIGMA, SIGMA / 2).denoised,
    ),
    "decode_not_unscaled": Case(
        {"latents": LATENTS, "num_frames": FRAMES, "vae": VAE_OF_DIFFUSERS},
        "frames",
        lambda r: r.unscale(LATENTS, FACTOR),
    ),
    "decoder_blend": Case(
        {"mix_factor": MIX, "x_spatial": UNCOND, "x_temporal": COND}, "x", of_blend
    ),
    "frames_truncated": Case(
        {"frames": PIXELS}, "frames.permute(0, 2, 3, 1)", lambda r: r.to_uint8(PIXELS)
    ),
}


def computed(lines: str, case: Case) -> Tensor:
    """What Python's lines give."""
    seeded = torch.Generator().manual_seed(PARAMS.seed)
    names = {"torch": torch, "np": np, "F": F, "generator": seeded, **case.given}
    if callable(names["generator"]):
        names["generator"] = names["generator"]()
    exec(lines, names)
    result: Tensor = eval(case.result, names)
    return result


def test_every_mistake_has_lines_of_every_language() -> None:
    for language in LANGUAGES.values():
        assert list(language) == list(CATALOGUE)
    for mistake in CATALOGUE:
        for lines in lines_of(mistake):
            for of_right, whole in ((False, lines.wrong), (True, lines.right)):
                assert "".join(part.text for part in lines.parts(of_right)) == whole
                assert 1 <= len(whole.splitlines()) <= 4
                assert max(map(len, whole.splitlines())) <= 100
            assert lines.wrong != lines.right


def test_what_differs_between_lines_is_marked() -> None:
    _, lines = lines_of("halves_swapped")
    marked = [part.text for part in lines.parts(of_right=True) if part.changed]
    assert marked == ["uncond", "cond"]
    (lines, _) = lines_of("karras_off")  # nothing is alike
    assert not any(part.changed for part in lines.parts(of_right=True))


@pytest.mark.parametrize("name", PYTHON)
def test_lines_of_python(name: str) -> None:
    wrong, right = PYTHON[name]
    for lines in (wrong, right):
        ast.parse(lines)
    assert (name in CASES) != (name in ONLY_PARSED)
    if name in CASES:
        case = CASES[name]
        mistaken = recipe_of(PARAMS.model_copy(update={"deviations": (name,)}))
        of_wrong, of_right = case.engine(mistaken), case.engine(recipe_of(PARAMS))
        torch.testing.assert_close(computed(wrong, case), of_wrong, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(computed(right, case), of_right, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(of_wrong.float(), of_right.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", RUST)
def test_lines_of_rust(name: str) -> None:
    closing = {")": "(", "]": "[", "}": "{"}
    for lines in RUST[name]:
        waiting = list[str]()
        for sign in lines:
            if sign in closing.values():
                waiting.append(sign)
            elif sign in closing:
                assert waiting.pop() == closing[sign]
        assert not waiting
        last = lines.splitlines()[-1].partition(" //")[0]
        assert last.endswith(";") or last.startswith("//")
