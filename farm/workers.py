"""Plain classes that run a plan's tasks with the engine's stages: the bridge to `svd_engine`."""

import gc
import hashlib
import logging
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from farm.errors import (
    FarmError,
    GpuMemoryError,
    MissingError,
    RequestError,
    StoreError,
    WorkerError,
)
from farm.keys import artifact_keys, checkpoint_key, picture_key
from farm.memory import what_fits
from farm.order import Made, Order
from farm.plan import Kind, Stage
from farm.request import Model, ModelFacts, RenderRequest
from farm.store import open_store
from svd_engine import stages, video
from svd_engine.checkpoint import open_checkpoint
from svd_engine.picture import open_picture

log = logging.getLogger("farm")


def describe(model: Model) -> ModelFacts:
    """What a request needs to know of a model; ValueError where there is no such model."""
    checkpoint = open_checkpoint(model.name, model.variant)
    checkpoint.check()
    return ModelFacts(digest=checkpoint.digest, defaults=checkpoint.render_defaults)


@dataclass(frozen=True)
class Latents:
    """A clip part of the way, with all that denoising goes on from; on the CPU."""

    step: int  # steps done
    latents: Tensor  # (1, F, 4, h, w)
    conditioning: stages.Conditioning

    def to_bytes(self) -> bytes:
        """As safetensors."""
        tensors = {"latents": self.latents, **vars(self.conditioning)}
        step = {"step": str(self.step)}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, step)

    @classmethod
    def from_bytes(cls, data: bytes, step: int) -> "Latents":
        tensors = load(data)
        return cls(step, tensors.pop("latents"), stages.Conditioning(**tensors))


class Renderer:
    """Keeps CLIP, the VAE and the UNet on its device; encodes pictures and denoises."""

    def __init__(self, model: Model, weights: str, device: torch.device) -> None:
        checkpoint = _open(model, weights)
        place = device, getattr(torch, model.dtype)
        self._image_encoder = checkpoint.load_image_encoder(*place)
        self._vae = checkpoint.load_vae(*place)
        self._unet = checkpoint.load_unet(*place)
        self._schedule = checkpoint.schedule_config
        self._preprocessor = checkpoint.preprocessor_config
        self.networks: list[nn.Module] = [self._image_encoder, self._vae, self._unet]

    def needs(self, stage: Stage) -> list[nn.Module]:
        """The networks that a task of a stage computes with."""
        return [self._unet] if stage is Stage.DENOISE else [self._image_encoder, self._vae]

    def encode(self, request: RenderRequest, picture: bytes) -> stages.Conditioning:
        """A picture file to its conditioning, on the CPU. ValueError: what is wrong with it."""
        conditioning = stages.encode(
            self._image_encoder,
            self._vae,
            self._preprocessor,
            open_picture(picture),
            self._noise(request),
            request.params,
        )
        return conditioning.to(torch.device("cpu"))

    def denoise(
        self, request: RenderRequest, given: stages.Conditioning | Latents, stop: int
    ) -> Generator[int, None, Latents]:
        """Yield the number of steps done after each; the latents at `stop`."""
        params = request.params
        if isinstance(given, Latents):
            start, latents, conditioning = given.step, given.latents, given.conditioning
        else:
            start, latents, conditioning = 0, self._noise(request).latents, given
        run = stages.denoise(self._unet, self._schedule, conditioning, latents, params, start)
        for step, latents in zip(range(start + 1, stop + 1), run, strict=False):
            if not latents.isfinite().all():
                raise RequestError(
                    f"the latents hold NaN or Inf after step {step} of {params.steps}"
                )
            yield step
        return Latents(stop, latents.cpu(), conditioning)

    def _noise(self, request: RenderRequest) -> stages.Noise:
        channels = self._vae.config.latent_channels
        return stages.draw_noise(request.params, self._unet.dtype, channels)


class Decoder:
    """Keeps the VAE on its device; decodes chunks of frames and muxes clips."""

    def __init__(self, model: Model, weights: str, device: torch.device) -> None:
        checkpoint = _open(model, weights)
        self._vae = checkpoint.load_vae(device, getattr(torch, model.dtype))
        self.networks: list[nn.Module] = [self._vae.encoder, self._vae.decoder]

    def needs(self, stage: Stage) -> list[nn.Module]:
        """The networks that a task of a stage computes with."""
        return [self._vae.decoder] if stage is Stage.DECODE else []

    def decode(self, latents: Tensor, frames: tuple[int, int]) -> video.Frames:
        """Latents (F, 4, h, w) to the frames of one chunk (n, H, W, 3), uint8."""
        start, stop = frames
        return stages.to_uint8(stages.decode(self._vae, latents[start:stop])).numpy()


class Worker:
    """Runs orders of one kind, with one model loaded at a time."""

    def __init__(self, kind: Kind, device: str, store: str) -> None:
        self._engine_class = Renderer if kind is Kind.RENDERER else Decoder
        self._device = torch.device(device)
        self._store = open_store(store)
        self._engine: Renderer | Decoder | None = None
        self._loaded: tuple[Model, str] | None = None
        self._saver = ThreadPoolExecutor(1)  # a checkpoint is written while the next step runs
        self._saving: Future[None] | None = None

    def run(self, order: Order, *given: Any) -> Generator[int, None, Any]:
        """Yield the number of steps done after each, where there are any; the result.

        given: results of the tasks needed, None where it is to be taken from the store.
        Raises RequestError, StoreError, WorkerError or GpuMemoryError; anything else is a bug.
        """
        try:
            engine = self._load(order)
            self._make_room(engine, order)
            return (yield from self._run(engine, order, *given))
        except torch.OutOfMemoryError as error:
            message = self._what_fits(order, str(error))
            del error  # its traceback holds the tensors
            raise GpuMemoryError(message) from None
        except FarmError:
            raise
        except (ValueError, FileNotFoundError) as error:
            raise RequestError(str(error)) from error
        finally:
            if order.lean:
                self._empty_cache()

    def _run(
        self, engine: Renderer | Decoder, order: Order, *given: Any
    ) -> Generator[int, None, Any]:
        request, task = order.request, order.task
        if isinstance(engine, Renderer):
            if task.stage is Stage.ENCODE:
                return engine.encode(request, self._picture(request.picture))
            start, stop = task.span
            before = given[0] if given[0] is not None else self._checkpoint(request, start)
            latents = yield from engine.denoise(request, before, stop)
            self._save(request, latents, start)
            return latents
        if task.stage is Stage.DECODE:
            latents = given[0] or self._checkpoint(request, request.params.steps)
            return engine.decode(latents.latents[0], task.span)
        return self._mux(order, np.concatenate(given))

    def _mux(self, order: Order, frames: video.Frames) -> Made:
        """Store what people see of the clip, under names that nobody is told before the commit."""
        files = (
            video.encode_video(frames, order.request.params.fps),
            video.thumbnail(frames),
            video.sprite_sheet(frames),
        )
        keys = artifact_keys(order.request.digest, order.attempt)
        for key, data in zip(keys, files, strict=True):
            self._store.put(key, data)
        sha256 = hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()
        return Made(sha256, *keys)

    def _load(self, order: Order) -> Renderer | Decoder:
        wanted = order.model, order.request.weights
        if self._loaded != wanted or self._engine is None:
            self._engine = self._loaded = None
            self._empty_cache()
            try:
                self._engine = self._engine_class(*wanted, self._device)
            except (ValueError, OSError) as error:
                raise WorkerError(f"cannot load {order.model.name} here: {error}") from error
            self._loaded = wanted
        return self._engine

    def _make_room(self, engine: Renderer | Decoder, order: Order) -> None:
        """What the task computes with onto the device; all else off it, where memory is short."""
        needed = engine.needs(order.task.stage)
        if order.lean:
            for network in engine.networks:
                if network not in needed:
                    network.to("cpu")
            self._empty_cache()
        for network in needed:
            network.to(self._device)

    def _picture(self, digest: str) -> bytes:
        stored = self._store.get(picture_key(digest))
        if stored is None:
            raise RequestError(f"the picture is gone: {self._store.where(picture_key(digest))}")
        return stored.data

    def _checkpoint(self, request: RenderRequest, step: int) -> Latents:
        key = checkpoint_key(request.digest, step)
        stored = self._store.get(key)
        if stored is None:
            raise MissingError(f"{self._store.where(key)} is gone")
        return Latents.from_bytes(stored.data, step)

    def _save(self, request: RenderRequest, latents: Latents, former: int) -> None:
        """Write a checkpoint, behind the back of the next task; one at a time."""
        if self._saving is not None:
            self._saving.result()
        self._saving = self._saver.submit(self._write, request.digest, latents, former)

    def _write(self, clip: str, latents: Latents, former: int) -> None:
        try:
            self._store.put(checkpoint_key(clip, latents.step), latents.to_bytes())
            if former:
                self._store.delete(checkpoint_key(clip, former))
        except StoreError as error:  # what it would have saved is rendered again, should it come so
            log.warning("no checkpoint at step %d: %s", latents.step, error)

    def _empty_cache(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _what_fits(self, order: Order, error: str) -> str:
        if self._device.type != "cuda":
            return what_fits(order, error)
        networks = self._engine.networks if self._engine else []
        weights = sum(p.nbytes for network in networks for p in network.parameters() if p.is_cuda)
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        total = torch.cuda.mem_get_info(self._device)[1]
        return what_fits(order, error, total, weights, peak)


def _open(model: Model, weights: str) -> Any:
    """The checkpoint, which must be the one the request was made for: nodes may differ."""
    checkpoint = open_checkpoint(model.name, model.variant)
    if checkpoint.digest != weights:
        raise ValueError(
            f"its weights are {checkpoint.digest[:12]}, the request's are {weights[:12]}; "
            "give every node the same model, and submit anew"
        )
    return checkpoint
