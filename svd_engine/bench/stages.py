"""The stages that are timed, as calls without arguments on the same inputs for all variants."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svd_engine.bench.floor import step_inputs
from svd_engine.bench.measure import Call
from svd_engine.bench.tier_comparison import shallow_step, tier_clips
from svd_engine.conditioning import latent_shape
from svd_engine.engine import Engine
from svd_engine.exact import decode_slices
from svd_engine.params import RenderParams

CHUNK = 8  # frames that diffusers decodes at once, as in its documentation


@dataclass(frozen=True)
class Stage:
    """A stage of a clip, in all variants."""

    name: str
    rounds: int  # of calls, after the first
    ours: dict[str, Call]  # the engine's variants; the first is the default
    theirs: Callable[[Any], Call]  # given diffusers' pipeline
    exact: Tensor | None = None  # the result in float32, if the stage runs in another type


def stages_of(engine: Engine, params: RenderParams, device: torch.device) -> list[Stage]:
    """The stages in the order of importance."""
    return [
        _step(engine, params, device),
        _decode(engine, params, device),
        _clip(engine, params),
    ]


def _step(engine: Engine, params: RenderParams, device: torch.device) -> Stage:
    torch.manual_seed(1)
    sample, timestep, context, ids = step_inputs(engine.unet.config, params)
    dtype, timestep = engine.unet.dtype, timestep.to(device)
    sample, context, ids = (x.to(device, dtype) for x in (sample, context, ids))
    inputs = (sample, timestep, context, ids)
    with torch.no_grad():  # a clip computes these once
        timesteps = timestep.expand(1, len(sample))
        (constants,) = engine.unet.constants(timesteps, context, ids, sample.shape[1])
    return Stage(
        "unet_step",
        5,
        {
            "eager": lambda: engine.unet.predict(sample, constants),
            "reusing features": shallow_step(engine.unet, inputs),
        },
        lambda pipeline: lambda: pipeline.unet(*inputs, return_dict=False)[0],
        None if dtype == torch.float32 else _in_float32(engine.unet, inputs),
    )


@torch.no_grad()  # inference_mode would make the cast weights inference tensors
def _in_float32(network: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    """The result of a network with the same weights in float32, without TF32."""
    dtype, before = network.dtype, torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        exact: Tensor = network.float()(*(x.float() for x in inputs))
        return exact
    finally:
        torch.backends.cudnn.allow_tf32 = before
        network.to(dtype)


def _decode(engine: Engine, params: RenderParams, device: torch.device) -> Stage:
    vae = engine.vae
    shape = latent_shape(params, vae.config.latent_channels)
    latents = torch.randn(shape, device=device, dtype=engine.unet.dtype)

    def theirs(pipeline: Any) -> Call:
        return lambda: torch.cat(
            [pipeline.vae.decode(z, num_frames=len(z)).sample for z in latents.split(CHUNK)]
        )

    return Stage(
        "decode",
        2,
        {
            "frame by frame": lambda: decode_slices(vae, latents),
            "5 slices": lambda: decode_slices(vae, latents, 5),
            "whole": lambda: vae.decode(latents),
        },
        theirs,
    )


def tiers_of(engine: Engine, params: RenderParams) -> dict[str, Call]:
    """Calls that render a clip in each approximate tier."""
    return tier_clips(engine, _picture(params), params)


def _picture(params: RenderParams) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (18, 32, 3), dtype=np.uint8)
    size = (params.width or 0, params.height or 0)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def _clip(engine: Engine, params: RenderParams) -> Stage:
    picture = _picture(params)

    def theirs(pipeline: Any) -> Call:
        return lambda: pipeline(
            picture,
            height=params.height,
            width=params.width,
            num_frames=params.num_frames,
            num_inference_steps=params.num_inference_steps,
            decode_chunk_size=CHUNK,
            generator=torch.Generator("cpu").manual_seed(0),
        )

    return Stage("clip", 1, {"eager": lambda: engine.render(picture, params)}, theirs)
