"""Runs the stages of a clip on the `meta` device, whose tensors have shapes but no memory.

The stages are the engine's own. Their networks have a checkpoint's shapes, and their inputs the
shapes of a clip.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from svd_engine import stages
from svd_engine.checkpoint import Checkpoint, lay_out
from svd_engine.clip import ImageEncoder
from svd_engine.conditioning import Conditioning, frame_shape, latent_shape
from svd_engine.config import ClipConfig, ScheduleConfig, UNetConfig, VAEConfig
from svd_engine.deviations import recipe_of
from svd_engine.params import RenderParams
from svd_engine.picture_pixels import CLIP_SIDE
from svd_engine.recipe import Recipe, RunDecoder
from svd_engine.unet import UNet
from svd_engine.vae import VAE

StageName = Literal["encode", "denoise", "decode"]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Shapes:
    """The configs of a checkpoint that determine the sizes of its networks."""

    unet: UNetConfig
    vae: VAEConfig
    schedule: ScheduleConfig
    image_encoder: ClipConfig

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The shapes of a checkpoint, whose weights need not exist. Raises CheckpointError."""
        return cls(
            checkpoint.unet_config,
            checkpoint.vae_config,
            checkpoint.schedule_config,
            checkpoint.image_encoder_config,
        )


class MetaStage(NamedTuple):
    """A stage that is ready to run."""

    networks: dict[str, nn.Module]
    given: list[Tensor]
    run: Callable[[], object]


def prepare(
    stage: StageName,
    shapes: Shapes,
    params: RenderParams,
    dtype: torch.dtype,
    slices: int | None = None,
) -> MetaStage:
    """Prepare a stage of a clip. slices: how many to decode in.

    Raises ValueError, here or when the stage runs, for params that cannot be rendered.
    """
    if stage == "encode":
        return _encode(shapes, params, dtype)
    if stage == "denoise":
        return _denoise(shapes, params, dtype)
    return _decode(shapes, params, dtype, slices)


def _encode(shapes: Shapes, params: RenderParams, dtype: torch.dtype) -> MetaStage:
    """`stages.encode`, from when the picture, prepared on the CPU, has reached the device."""
    width, height, _ = frame_shape(params)
    recipe = recipe_of(params)
    image_encoder, vae = _image_encoder(shapes, dtype), _vae(shapes, dtype)
    seen, pixels = (
        torch.empty(1, 3, *size, device="meta")
        for size in ((CLIP_SIDE, CLIP_SIDE), (height, width))
    )

    def run() -> object:
        embedding = recipe.embed(image_encoder, seen)
        return embedding, recipe.encode_latent(vae, pixels)

    networks = {"image_encoder": image_encoder, "vae": vae}
    return MetaStage(networks, [seen, pixels], run)


def _denoise(shapes: Shapes, params: RenderParams, dtype: torch.dtype) -> MetaStage:
    """The first step and what precedes it. The other steps need the same memory."""
    unet = _unet(shapes, dtype)
    empty = partial(torch.empty, device="meta", dtype=dtype)
    latents = _latents(shapes, params, dtype)[None]
    embedding = empty(1, 1, shapes.unet.per_block("cross_attention_dim")[0])
    conditioning = Conditioning(embedding, empty(latents[0, :1].shape), empty(1, 3))

    def run() -> None:
        next(stages.denoise(unet, shapes.schedule, conditioning, latents, params, 0, recipe))

    recipe = recipe_of(params)
    return MetaStage({"unet": unet}, [latents, *vars(conditioning).values()], run)


def _decode(
    shapes: Shapes, params: RenderParams, dtype: torch.dtype, slices: int | None
) -> MetaStage:
    vae, recipe = _vae(shapes, dtype), recipe_of(params)
    latents = _latents(shapes, params, dtype)
    if params.decode_chunk_size:
        recipe = _last_chunks(recipe, -(-len(latents) // params.decode_chunk_size))

    def run() -> object:
        decoded = stages.decode(vae, latents, params.decode_chunk_size, recipe, slices)
        return stages.to_uint8(decoded, recipe)

    return MetaStage({"vae": vae}, [latents], run)


def _last_chunks(recipe: Recipe, chunks: int) -> Recipe:
    """Decode only the last two chunks, a whole one and the remainder.

    The earlier ones need as much memory as the whole one, so only their results are allocated.
    """
    numbers = iter(range(chunks))

    def decode(vae: VAE, latents: Tensor, run: RunDecoder) -> Tensor:
        if next(numbers) >= chunks - 2:
            return recipe.decode(vae, latents, run)
        frames, _, h, w = latents.shape
        scale = vae.config.downscale
        return latents.new_empty(frames, vae.config.out_channels, scale * h, scale * w)

    return replace(recipe, decode=decode)


def _latents(shapes: Shapes, params: RenderParams, dtype: torch.dtype) -> Tensor:
    shape = latent_shape(params, shapes.vae.latent_channels)
    return torch.empty(shape, device="meta", dtype=dtype)


# Networks


def _unet(shapes: Shapes, dtype: torch.dtype) -> UNet:
    with torch.device("meta"):
        return _as_loaded(UNet(shapes.unet), dtype)


def _vae(shapes: Shapes, dtype: torch.dtype) -> VAE:
    with torch.device("meta"):
        return _as_loaded(VAE(shapes.vae), dtype)


def _image_encoder(shapes: Shapes, dtype: torch.dtype) -> ImageEncoder:
    with torch.device("meta"):
        return _as_loaded(ImageEncoder(shapes.image_encoder), dtype)


def _as_loaded(network: Network, dtype: torch.dtype) -> Network:
    network = network.to(dtype).eval().requires_grad_(False)
    lay_out(network)
    return network
