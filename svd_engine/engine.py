"""Renders clips in one process with one model. The farm must produce the same pixels."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from svd_engine import stages, video
from svd_engine.checkpoint import open_checkpoint
from svd_engine.clip import ImageEncoder
from svd_engine.conditioning import Conditioning, Noise
from svd_engine.config import PreprocessorConfig, ScheduleConfig
from svd_engine.deviations import recipe_of
from svd_engine.memory_plan import MemoryPlan, memory_plan
from svd_engine.meta_stages import Shapes
from svd_engine.optimize import optimize
from svd_engine.params import RenderDefaults, RenderParams
from svd_engine.picture_files import Picture, open_picture
from svd_engine.player import player
from svd_engine.recipe import Recipe
from svd_engine.schedule import StepResult
from svd_engine.unet import UNet
from svd_engine.vae import VAE


@dataclass(frozen=True)
class Clip:
    """A rendered clip."""

    frames: video.Frames  # (F, H, W, 3), uint8
    latents: Tensor  # (F, C, h, w), on the CPU; C is 4 in the published checkpoints
    fps: int

    def __repr__(self) -> str:
        """What a terminal shows; the arrays would fill it."""
        frames, height, width, _ = self.frames.shape
        return f"Clip({frames} frames of {width}x{height} at {self.fps} fps)"

    def _repr_html_(self) -> str:
        """What a notebook shows: the clip itself, playing."""
        caption = repr(self).removeprefix("Clip(").removesuffix(")")
        return player(video.encode_video(self.frames, self.fps), self.frames.shape[2], caption)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a video. The suffix selects .mp4, .webm, .gif or .webp; none means .png frames."""
        return video.save(self.frames, self.fps, path)


@dataclass(frozen=True)
class Engine:
    """The networks of one checkpoint, each on its device, and the stages that use them."""

    image_encoder: ImageEncoder
    unet: UNet
    vae: VAE
    schedule: ScheduleConfig
    preprocessor: PreprocessorConfig
    defaults: RenderDefaults

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "nano",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        variant: str | None = None,
        compile: bool = False,
    ) -> Self:
        """Load a model (folder, hub id, or name; see `open_checkpoint`) onto one device.

        compile: speed the networks up with `optimize`; the first step of each size takes longer.
        Raises CheckpointError, a ValueError, if the model cannot be found or used.
        """
        checkpoint = open_checkpoint(model, variant)
        checkpoint.check()
        device = torch.device(device)
        unet, vae = checkpoint.load_unet(device, dtype), checkpoint.load_vae(device, dtype)
        if compile:
            optimize(unet)
            optimize(vae)
        return cls(
            checkpoint.load_image_encoder(device, dtype),
            unet,
            vae,
            checkpoint.schedule_config,
            checkpoint.preprocessor_config,
            checkpoint.render_defaults,
        )

    def render(
        self,
        picture: Picture,
        params: RenderParams | None = None,
        on_step: Callable[[int, Tensor], object] | None = None,
        recipe: Recipe | None = None,
    ) -> Clip:
        """Turn a picture (PIL image, path or bytes) into a clip.

        on_step: called after each step with the number of steps done and the latents
        (1, F, C, h, w).
        recipe: the functions to compute the clip with; default: those that `params` ask for.
        Raises ValueError or FileNotFoundError for a picture that cannot be used.
        """
        params = (params or RenderParams()).resolve(self.defaults)
        recipe = recipe or recipe_of(params)
        noise = stages.draw_noise(params, self.unet.dtype, self.vae.config.latent_channels, recipe)
        conditioning = self.encode(picture, noise, params, recipe)
        latents = noise.latents
        steps = self.denoise(conditioning, noise.latents, params, recipe=recipe)
        for done, (latents, _denoised) in enumerate(steps, start=1):
            if on_step is not None:
                on_step(done, latents)
        frames = stages.to_uint8(self.decode(latents[0], params, recipe), recipe)
        return Clip(frames.numpy(), latents[0].cpu().contiguous(), params.fps)

    def memory_plan(self, params: RenderParams | None = None) -> MemoryPlan:
        """Plan the bytes that each stage needs on this engine's device, without running anything.

        Raises ValueError for params that cannot be rendered.
        """
        clip = self.image_encoder.config
        shapes = Shapes(self.unet.config, self.vae.config, self.schedule, clip)
        weights = next(self.unet.parameters())
        params = (params or RenderParams()).resolve(self.defaults)
        return memory_plan(shapes, params, weights.device, weights.dtype)

    def encode(
        self,
        picture: Picture,
        noise: Noise,
        params: RenderParams,
        recipe: Recipe | None = None,
    ) -> Conditioning:
        """`stages.encode` with this engine's networks."""
        return stages.encode(
            self.image_encoder,
            self.vae,
            self.preprocessor,
            open_picture(picture),
            noise,
            params,
            recipe or recipe_of(params),
        )

    def denoise(
        self,
        conditioning: Conditioning,
        latents: Tensor,
        params: RenderParams,
        start: int = 0,
        recipe: Recipe | None = None,
    ) -> Iterator[StepResult]:
        """`stages.denoise` with this engine's UNet and schedule."""
        recipe = recipe or recipe_of(params)
        return stages.denoise(
            self.unet, self.schedule, conditioning, latents, params, start, recipe
        )

    def decode(
        self,
        latents: Tensor,
        params: RenderParams,
        recipe: Recipe | None = None,
        slices: int | None = None,
    ) -> Tensor:
        """`stages.decode` with this engine's VAE."""
        recipe = recipe or recipe_of(params)
        return stages.decode(self.vae, latents, params.decode_chunk_size, recipe, slices)
