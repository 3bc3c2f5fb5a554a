"""bfloat16 and float16 are as close to the float32 reference as diffusers is in that type."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from svd_engine import Engine
from svd_engine.clip import embed
from svd_engine.conditioning import encode_latent
from svd_engine.stages import decode
from tests.support.reference import SPECS, Recording, load_pipeline, record

MARGIN = 1.25
# CPUs without half precision take their time.
SMALL: dict[str, Any] = {"num_inference_steps": 3, "num_frames": 2, "decode_chunk_size": None}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = ["published-depth", "three-levels", "no-upcast"]

cases = pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("published-depth", "bfloat16"),
        ("three-levels", "float16"),
        ("no-upcast", "float16"),  # what is not up-cast is so in float16 alone
        pytest.param("published-depth", "float16", marks=pytest.mark.slow),
        pytest.param("three-levels", "bfloat16", marks=pytest.mark.slow),
    ],
)


@pytest.fixture(scope="module")
def tapes(checkpoints: dict[str, Path], picture: Image.Image) -> dict[str, Recording]:
    """The float32 reference: its inputs to every stage, and its results."""
    return {
        name: record(
            load_pipeline(checkpoints[name]),
            picture,
            seed=2,
            **(SPECS[name].render | SMALL),
        )
        for name in NAMES
    }


def error(result: Tensor, reference: Tensor) -> float:
    """Root mean square distance."""
    return (result.float() - reference).square().mean().sqrt().item()


def assert_no_further(ours: Tensor, theirs: Tensor, reference: Tensor) -> None:
    assert ours.dtype == theirs.dtype
    assert error(ours, reference) <= MARGIN * error(theirs, reference)


@cases
@torch.no_grad()
def test_stages(
    name: str, dtype: str, checkpoints: dict[str, Path], tapes: dict[str, Recording]
) -> None:
    kind, tape = DTYPES[dtype], tapes[name]
    engine = Engine.from_pretrained(checkpoints[name], dtype=kind)
    pipeline = load_pipeline(checkpoints[name], kind)

    theirs = pipeline.image_encoder(tape.pixels.to(kind)).image_embeds
    assert_no_further(embed(engine.image_encoder, tape.pixels)[:, 0], theirs, tape.embedding)

    ours = encode_latent(engine.vae, tape.vae_input).to(kind)
    assert_no_further(ours, their_latent(pipeline, tape.vae_input), tape.image_latent)

    for given, reference in zip(tape.unet_inputs, tape.unet_outputs, strict=True):
        arguments = (
            given["sample"].to(kind),
            given["timestep"],
            given["encoder_hidden_states"].to(kind),
            given["added_time_ids"].to(kind),
        )
        theirs = pipeline.unet(*arguments, return_dict=False)[0]
        assert_no_further(engine.unet(*arguments), theirs, reference)

    latents = tape.latents[-1].to(kind)
    theirs = pipeline.decode_latents(latents, latents.shape[1], latents.shape[1])
    theirs = theirs[0].permute(1, 0, 2, 3)
    assert_no_further(decode(engine.vae, latents[0]), theirs, tape.decoded)


def their_latent(pipeline: Any, pixels: Tensor) -> Tensor:
    """The image latent as the pipeline makes it: float16 up-cast where the VAE asks for it."""
    kind = pipeline.vae.dtype
    upcast = kind == torch.float16 and pipeline.vae.config.force_upcast
    if upcast:
        pipeline.vae.to(dtype=torch.float32)
    latent = pipeline._encode_vae_image(pixels, "cpu", 1, False).to(kind)
    if upcast:
        pipeline.vae.to(dtype=torch.float16)
    return latent


@cases
def test_denoising(
    name: str,
    dtype: str,
    checkpoints: dict[str, Path],
    tapes: dict[str, Recording],
    picture: Image.Image,
) -> None:
    """Three steps from the same noise, rounded; the reference is float32 from that."""
    kind = DTYPES[dtype]
    call = SPECS[name].render | SMALL
    noise = torch.randn(tapes[name].latents[0].shape, generator=torch.Generator().manual_seed(8))
    noise = noise.to(kind)

    def run(pipeline: Any, latents: Tensor) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(2)
        return pipeline(
            picture, latents=latents, generator=generator, output_type="latent", **call
        ).frames

    reference = run(load_pipeline(checkpoints[name]), noise.float())
    theirs = run(load_pipeline(checkpoints[name], kind), noise)

    from svd_engine import RenderParams
    from svd_engine.stages import draw_noise

    engine = Engine.from_pretrained(checkpoints[name], dtype=kind)
    params = RenderParams(seed=2, **call).resolve(engine.defaults)
    conditioning = engine.encode(picture, draw_noise(params, kind), params)
    *_, (ours, _) = engine.denoise(conditioning, noise, params)
    assert_no_further(ours, theirs, reference)
