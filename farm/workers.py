"""Plain classes that run a plan's tasks with the engine's stages: the bridge to `svd_engine`."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from farm.request import Model, ModelFacts
from svd_engine import stages, video
from svd_engine.checkpoint import open_checkpoint
from svd_engine.image import open_picture
from svd_engine.params import RenderParams


def describe(model: Model) -> ModelFacts:
    """What a request needs to know of a model; ValueError where there is no such model."""
    checkpoint = open_checkpoint(model.name, model.variant)
    checkpoint.check()
    return ModelFacts(digest=checkpoint.digest, defaults=checkpoint.render_defaults)


class Renderer:
    """Keeps CLIP, the VAE and the UNet on its device; encodes pictures and denoises."""

    def __init__(self, model: Model, device: str) -> None:
        checkpoint = open_checkpoint(model.name, model.variant)
        place = torch.device(device), getattr(torch, model.dtype)
        self._image_encoder = checkpoint.load_image_encoder(*place)
        self._vae = checkpoint.load_vae(*place)
        self._unet = checkpoint.load_unet(*place)
        self._schedule = checkpoint.schedule_config
        self._preprocessor = checkpoint.preprocessor_config

    def encode(self, picture: bytes, params: RenderParams) -> stages.Conditioning:
        """A picture file to its conditioning, on the CPU. ValueError: what is wrong with it."""
        conditioning = stages.encode(
            self._image_encoder,
            self._vae,
            self._preprocessor,
            open_picture(picture),
            self._noise(params),
            params,
        )
        return conditioning.to(torch.device("cpu"))

    def denoise(
        self, conditioning: stages.Conditioning, params: RenderParams
    ) -> Iterator[int | Tensor]:
        """Yield the number of steps done after each, and at last the latents (F, 4, h, w)."""
        latents = self._noise(params).latents
        run = stages.denoise(self._unet, self._schedule, conditioning, latents, params)
        for done, latents in enumerate(run, start=1):  # noqa: B007 (the last one is the result)
            yield done
        yield latents[0].cpu()

    def _noise(self, params: RenderParams) -> stages.Noise:
        return stages.draw_noise(params, self._unet.dtype, self._vae.config.latent_channels)


class Decoder:
    """Keeps the VAE on its device; decodes chunks of frames and muxes clips."""

    def __init__(self, model: Model, device: str) -> None:
        checkpoint = open_checkpoint(model.name, model.variant)
        self._vae = checkpoint.load_vae(torch.device(device), getattr(torch, model.dtype))

    def decode(self, latents: Tensor, frames: tuple[int, int]) -> video.Frames:
        """Latents (F, 4, h, w) to the frames of one chunk (n, H, W, 3), uint8."""
        start, stop = frames
        return stages.to_uint8(stages.decode(self._vae, latents[start:stop])).numpy()

    def mux(self, fps: int, *chunks: video.Frames) -> tuple[bytes, bytes, str]:
        """Chunks of frames, in order, to an mp4, a jpeg thumbnail, and the frames' sha256."""
        frames = np.concatenate(chunks)
        digest = hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()
        return video.encode_video(frames, fps), video.thumbnail(frames), digest
