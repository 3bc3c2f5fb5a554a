"""Single stages, stopped and resumed; parameters; the public names."""

import inspect
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import svd_engine
from svd_engine import Engine, RenderDefaults, RenderParams, stages, transformer
from svd_engine.checkpoint import open_checkpoint
from svd_engine.conditioning import Conditioning
from svd_engine.schedule import make_sigmas


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.from_pretrained(tiny)


@pytest.fixture(scope="module")
def params(engine: Engine) -> RenderParams:
    small = RenderParams(width=64, height=48, num_frames=4, num_inference_steps=6, seed=9)
    return small.resolve(engine.defaults)


def test_public_names() -> None:
    assert sorted(svd_engine.__all__) == [
        "Checkpoint",
        "Clip",
        "Engine",
        "NUMERICS",
        "RenderDefaults",
        "RenderParams",
        "__version__",
        "open_checkpoint",
    ]
    assert all(hasattr(svd_engine, name) for name in svd_engine.__all__)


CHECKPOINTS = ("max_guidance_scale", "motion_bucket_id")  # a checkpoint may have its own default


def test_defaults_are_diffusers() -> None:
    from diffusers import StableVideoDiffusionPipeline

    theirs = inspect.signature(StableVideoDiffusionPipeline.__call__).parameters
    for name, field in RenderParams.model_fields.items():
        if name in theirs and name not in ("width", "height"):  # the checkpoint's own
            ours = RenderDefaults.model_fields[name] if name in CHECKPOINTS else field
            assert ours.default == theirs[name].default, name


def test_clip(engine: Engine, params: RenderParams, picture: Image.Image) -> None:
    clip = engine.render(picture, params)
    assert (clip.frames.shape, clip.frames.dtype) == ((4, 48, 64, 3), np.uint8)
    assert (clip.latents.shape, clip.latents.device.type) == ((4, 4, 6, 8), "cpu")
    assert clip.fps == 7


def test_render_without_parameters_uses_the_checkpoint_own(
    engine: Engine, picture: Image.Image
) -> None:
    steps = []
    params = RenderParams(num_inference_steps=1)
    clip = engine.render(picture, params, on_step=lambda done, _: steps.append(done))
    assert clip.frames.shape == (8, 128, 192, 3)
    assert steps == [1]


def test_rendering_is_repeatable_and_seeds_differ(
    engine: Engine, params: RenderParams, picture: Image.Image
) -> None:
    once, again = engine.render(picture, params), engine.render(picture, params)
    assert torch.equal(once.latents, again.latents)
    assert np.array_equal(once.frames, again.frames)
    other = engine.render(picture, params.model_copy(update={"seed": 10}))
    assert not torch.equal(once.latents, other.latents)


def test_stages_alone_are_the_render(
    tiny: Path, engine: Engine, params: RenderParams, picture: Image.Image
) -> None:
    """Each with a network loaded for it alone."""
    checkpoint, place = open_checkpoint(tiny), (torch.device("cpu"), torch.float32)
    noise = stages.draw_noise(params, torch.float32)
    conditioning = stages.encode(
        checkpoint.load_image_encoder(*place),
        checkpoint.load_vae(*place),
        checkpoint.preprocessor_config,
        picture,
        noise,
        params,
    )
    unet = checkpoint.load_unet(*place)
    *_, (latents, _) = stages.denoise(
        unet, checkpoint.schedule_config, conditioning, noise.latents, params
    )
    frames = stages.to_uint8(stages.decode(checkpoint.load_vae(*place), latents[0]))
    clip = engine.render(picture, params)
    assert torch.equal(latents[0], clip.latents)
    assert np.array_equal(frames.numpy(), clip.frames)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_denoise_resumes_at_any_step_bit_identically(
    engine: Engine, params: RenderParams, picture: Image.Image, guidance: float
) -> None:
    params = params.model_copy(update={"max_guidance_scale": guidance})
    noise = stages.draw_noise(params, torch.float32)
    conditioning = engine.encode(picture, noise, params)
    steps = engine.denoise(conditioning, noise.latents, params)
    whole = [(step.latents.clone(), step.denoised.clone()) for step in steps]
    assert len(whole) == 6
    for start in range(1, 6):
        rest = list(engine.denoise(conditioning, whole[start - 1][0], params, start=start))
        for step, (latents, denoised) in zip(rest, whole[start:], strict=True):
            assert torch.equal(step.latents, latents)
            assert torch.equal(step.denoised, denoised)


def test_the_denoised_estimate_is_where_the_step_would_end_without_noise(
    engine: Engine, params: RenderParams, picture: Image.Image
) -> None:
    noise = stages.draw_noise(params, torch.float32)
    conditioning = engine.encode(picture, noise, params)
    steps = list(engine.denoise(conditioning, noise.latents, params))
    sigmas = make_sigmas(engine.schedule, params.steps, None)
    for number, (before, after) in enumerate(pairwise(steps), start=1):
        kept = sigmas[number + 1] / sigmas[number]  # of the noise
        expected = after.denoised + kept * (before.latents - after.denoised)
        assert torch.allclose(after.latents, expected, rtol=1e-4, atol=1e-4)
    assert torch.allclose(steps[-1].latents, steps[-1].denoised, rtol=1e-4, atol=1e-4)


def test_denoise_refuses_a_step_that_is_not(engine: Engine, params: RenderParams) -> None:
    noise = stages.draw_noise(params, torch.float32)
    nothing = Conditioning(torch.zeros(1, 1, 64), torch.zeros(1, 4, 6, 8), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="from 0 to 6, got 7"):
        next(engine.denoise(nothing, noise.latents, params, start=7))


def test_stages_ask_for_resolved_parameters() -> None:
    with pytest.raises(ValueError, match="resolve"):
        stages.draw_noise(RenderParams(), torch.float32)


def test_attention_past_the_kernels_batch_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(10, 7, 16) for _ in range(3))
    whole = transformer.attend(q, k, v, heads=2)
    monkeypatch.setattr(transformer, "MAX_ATTENTION_BATCH", 4)
    assert torch.equal(transformer.attend(q, k, v, heads=2), whole)


@pytest.mark.gpu
def test_each_stage_on_its_own_device(
    tiny: Path, engine: Engine, params: RenderParams, picture: Image.Image
) -> None:
    checkpoint = open_checkpoint(tiny)
    noise = stages.draw_noise(params, torch.float32)
    conditioning = engine.encode(picture, noise, params)
    unet = checkpoint.load_unet(torch.device("cuda"), torch.float32)
    *_, (latents, _) = stages.denoise(unet, engine.schedule, conditioning, noise.latents, params)
    frames = stages.to_uint8(engine.decode(latents[0], params)).numpy()
    distance = np.abs(frames.astype(int) - engine.render(picture, params).frames)
    assert distance.max() <= 3


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("width", 100, "multiple of 8"),
        ("height", 0, "greater than or equal to 8"),
        ("num_frames", 0, "greater than or equal to 1"),
        ("num_inference_steps", 0, "greater than or equal to 1"),
        ("fps", 0, "greater than or equal to 1"),
        ("motion_bucket_id", -1, "greater than or equal to 0"),
        ("noise_aug_strength", float("nan"), "finite"),
        ("max_guidance_scale", -1, "greater than or equal to 0"),
        ("decode_chunk_size", 0, "greater than or equal to 1"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**64, "less than"),
        ("fit", "squash", "'stretch', 'crop' or 'pad'"),
        ("sigmas", [1.0], "at least two"),
        ("sigmas", [1.0, 2.0, 0.0], "fall at every step"),
        ("sigmas", [1.0, 0.5, -0.1], "not fall below 0"),
        ("sigmas", [float("inf"), 1.0], "finite"),
        ("sigmas", [float(n) for n in range(1002, 0, -1)], "may have 1001 levels"),
        ("sigma", 3, "Extra inputs"),
    ],
)
def test_bad_parameters(field: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        RenderParams(**{field: value})
    assert field in str(caught.value)
