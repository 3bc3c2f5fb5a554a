"""The engine compared with diffusers in float32: each stage on the reference's inputs, and all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from svd_engine import Engine, RenderParams
from svd_engine.clip import embed
from svd_engine.conditioning import encode_latent
from svd_engine.picture_pixels import clip_pixels
from svd_engine.schedule import euler_step, guidance_scales, guide, make_sigmas, make_timesteps
from svd_engine.stages import decode, to_uint8
from tests.support.reference import (
    SPECS,
    Recording,
    load_pipeline,
    record,
    relative_difference,
)

STAGE_TOLERANCE = 1e-5
LATENT_TOLERANCE = 1e-4
names = pytest.mark.parametrize("name", SPECS)


@pytest.fixture(scope="module")
def engines(checkpoints: dict[str, Path]) -> dict[str, Engine]:
    return {name: Engine.from_pretrained(folder) for name, folder in checkpoints.items()}


@pytest.fixture(scope="module")
def pipelines(checkpoints: dict[str, Path]) -> dict[str, Any]:
    return {name: load_pipeline(folder) for name, folder in checkpoints.items()}


@pytest.fixture(scope="module")
def recordings(pipelines: dict[str, Any], picture: Image.Image) -> dict[str, Recording]:
    """25 steps of each checkpoint."""
    return {
        name: record(pipelines[name], picture, seed=11, num_inference_steps=25, **spec.render)
        for name, spec in SPECS.items()
    }


def params(name: str, **changes: Any) -> RenderParams:
    return RenderParams(**{"seed": 11, **SPECS[name].render, **changes})


@names
def test_clip_pixels(
    name: str, engines: dict[str, Engine], recordings: dict[str, Recording], picture: Image.Image
) -> None:
    preprocessor = engines[name].preprocessor
    ours = clip_pixels(picture, preprocessor.image_mean, preprocessor.image_std)
    assert relative_difference(ours, recordings[name].pixels) <= STAGE_TOLERANCE


@names
def test_embedding(name: str, engines: dict[str, Engine], recordings: dict[str, Recording]) -> None:
    tape = recordings[name]
    with torch.no_grad():
        ours = embed(engines[name].image_encoder, tape.pixels)[:, 0]
    assert relative_difference(ours, tape.embedding) <= STAGE_TOLERANCE


@names
def test_image_latent(
    name: str, engines: dict[str, Engine], recordings: dict[str, Recording]
) -> None:
    tape = recordings[name]
    ours = encode_latent(engines[name].vae, tape.vae_input)
    assert relative_difference(ours, tape.image_latent) <= STAGE_TOLERANCE


@names
def test_noise_prediction_at_every_step(
    name: str, engines: dict[str, Engine], recordings: dict[str, Recording]
) -> None:
    tape = recordings[name]
    assert len(tape.unet_inputs) == 25
    for given, theirs in zip(tape.unet_inputs, tape.unet_outputs, strict=True):
        with torch.no_grad():
            ours = engines[name].unet(
                given["sample"],
                given["timestep"],
                given["encoder_hidden_states"],
                given["added_time_ids"],
            )
        assert relative_difference(ours, theirs) <= STAGE_TOLERANCE


@names
def test_schedule(name: str, engines: dict[str, Engine], recordings: dict[str, Recording]) -> None:
    tape = recordings[name]
    sigmas = make_sigmas(engines[name].schedule, 25, None)
    assert relative_difference(sigmas, tape.sigmas) <= 1e-7
    assert relative_difference(make_timesteps(sigmas), tape.timesteps) <= 1e-7


@names
def test_guidance_and_euler_step_at_every_step(
    name: str, engines: dict[str, Engine], recordings: dict[str, Recording]
) -> None:
    tape, asked = recordings[name], params(name).resolve(engines[name].defaults)
    frames = tape.latents[0].shape[1]
    (scales,) = guidance_scales(*asked.guidance, frames, 1)
    for step in range(1, 25):
        ours = euler_step(
            tape.latents[step - 1],
            guide(tape.unet_outputs[step], scales),
            tape.sigmas[step],
            tape.sigmas[step + 1],
        )
        assert relative_difference(ours.latents, tape.latents[step]) <= STAGE_TOLERANCE


@names
def test_decode(name: str, engines: dict[str, Engine], recordings: dict[str, Recording]) -> None:
    tape = recordings[name]
    chunk_size = params(name).decode_chunk_size
    ours = decode(engines[name].vae, tape.latents[-1][0], chunk_size)
    assert relative_difference(ours, tape.decoded) <= STAGE_TOLERANCE
    assert np.array_equal(to_uint8(tape.decoded).numpy(), tape.frames)


def assert_same_clip(
    engine: Engine, image: Image.Image, asked: RenderParams, tape: Recording
) -> None:
    clip = engine.render(image, asked)
    assert relative_difference(clip.latents, tape.latents[-1][0]) <= LATENT_TOLERANCE
    distance = np.abs(clip.frames.astype(int) - tape.frames)
    assert distance.max() <= 1
    assert (distance == 0).mean() >= 0.999


@pytest.mark.parametrize(
    "name",
    [  # each stage, and each of the 25 steps from the reference's input, is tested for all of them
        pytest.param(name, marks=[] if name in ("shallow", "published-depth") else pytest.mark.slow)
        for name in SPECS
    ],
)
def test_end_to_end_25_steps(
    name: str, engines: dict[str, Engine], recordings: dict[str, Recording], picture: Image.Image
) -> None:
    assert_same_clip(engines[name], picture, params(name), recordings[name])


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "one step": ("shallow", {"num_inference_steps": 1}),
    "guidance off": ("shallow", {"max_guidance_scale": 1.0}),
    "one frame": ("shallow", {"num_frames": 1, "min_guidance_scale": 2.0}),
    "more frames than the model's": ("shallow", {"num_frames": 9}),
    "chunk of one": ("shallow", {"decode_chunk_size": 1}),
    "chunk over the clip": ("published-depth", {"decode_chunk_size": 50}),
    "explicit sigmas": ("published-depth", {"sigmas": [700.0, 54.5, 7.977, 0.403, 0.0]}),
    "sigmas that end above 0": ("three-levels", {"sigmas": [80.0, 10.0, 0.5]}),
    "a strip": ("three-levels", {"width": 128, "height": 24}),
    "portrait": ("no-upcast", {"width": 48, "height": 120}),
    "fps 1": ("three-levels", {"fps": 1}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_end_to_end_variants(
    variant: str, engines: dict[str, Engine], pipelines: dict[str, Any], picture: Image.Image
) -> None:
    name, changes = VARIANTS[variant]
    call = {**SPECS[name].render, "num_inference_steps": 4, **changes}
    if "sigmas" in call:
        del call["num_inference_steps"]
    tape = record(pipelines[name], picture, seed=3, **call)
    assert_same_clip(engines[name], picture, RenderParams(**call, seed=3), tape)
