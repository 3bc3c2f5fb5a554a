"""The networks of a renderer or a decoder, and their computations, which `svd_engine` does."""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from farm.errors import GangError, RequestError, UnreadableError
from farm.model.plan import Stage
from farm.model.request import Model, ModelFacts, RenderRequest
from farm.model.task_order import Part
from farm.store.records import SCHEMA
from farm.workers.previews import Sketch
from svd_engine import sharded, stages, video
from svd_engine.checkpoint import Checkpoint, open_checkpoint
from svd_engine.conditioning import Conditioning, Noise
from svd_engine.deviations import recipe_of
from svd_engine.exact import Seam
from svd_engine.memory_plan import plan_stage
from svd_engine.meta_stages import Shapes, StageName
from svd_engine.optimize import optimize, warm_up
from svd_engine.params import RenderParams
from svd_engine.picture_files import open_picture

RENDEZVOUS_S = 600.0  # for a gang to assemble; its members may have to load their model first
EXCHANGE_S = 120.0  # for one exchange: the slowest member may be a layer behind
STAGES: dict[Stage, StageName] = {
    Stage.ENCODE: "encode",
    Stage.DENOISE: "denoise",
    Stage.DECODE: "decode",
}


def describe(model: Model) -> ModelFacts:
    """The facts about a model that a request needs. Raises ValueError if there is no such model."""
    checkpoint = open_checkpoint(model.name, model.variant)
    checkpoint.check()
    return ModelFacts(
        digest=checkpoint.digest,
        defaults=checkpoint.render_defaults,
        warnings=checkpoint.warnings,
    )


def gpu_bytes() -> int:
    """The total memory of this process's GPU."""
    total: int = torch.cuda.mem_get_info()[1]
    return total


@dataclass(frozen=True)
class Latents:
    """A partly denoised clip on the CPU, with everything that denoising needs to continue."""

    step: int  # steps done
    latents: Tensor  # (1, F, C, h, w)
    conditioning: Conditioning

    def to_bytes(self, clip: str) -> bytes:
        """Serialize as safetensors, whose header names the clip and the step."""
        tensors = {"latents": self.latents, **vars(self.conditioning)}
        header = {"schema_version": str(SCHEMA), "clip": clip, "step": str(self.step)}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, header)

    @classmethod
    def from_bytes(cls, data: bytes, clip: str, step: int) -> "Latents":
        """Deserialize. Raises UnreadableError unless these are that clip's latents at that step."""
        try:
            tensors = load(data)
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size]).get("__metadata__", {})
            latents = cls(step, tensors.pop("latents"), Conditioning(**tensors))
        except (SafetensorError, LookupError, TypeError, ValueError) as error:
            raise UnreadableError(f"it is no checkpoint: {error!r}") from None
        if (header.get("clip"), header.get("step")) != (clip, str(step)):
            found = f"step {header.get('step')} of clip {header.get('clip')}"
            raise UnreadableError(f"it is of {found}")
        return latents


class _Planned:
    """Plans how much memory a stage needs with its model."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self._shapes, self._dtype = Shapes.of(checkpoint), dtype

    def bytes_needed(self, stage: Stage, params: RenderParams) -> int:
        """The GPU memory that a stage needs, including its networks."""
        return plan_stage(self._shapes, params, STAGES[stage], "cuda", self._dtype).total


class Renderer(_Planned):
    """Keeps CLIP, the VAE and the UNet on its device; encodes pictures and denoises."""

    def __init__(
        self, model: Model, weights: str, device: torch.device, compiled: bool = False
    ) -> None:
        """compiled: whether to speed the UNet up with `svd_engine.optimize`."""
        checkpoint = open_model(model, weights)
        super().__init__(checkpoint, getattr(torch, model.dtype))
        place = device, getattr(torch, model.dtype)
        self._image_encoder = checkpoint.load_image_encoder(*place)
        self._vae = checkpoint.load_vae(*place)
        self._unet = checkpoint.load_unet(*place)
        if compiled:
            optimize(self._unet)
        self._schedule = checkpoint.schedule_config
        self._preprocessor = checkpoint.preprocessor_config
        self.networks: list[nn.Module] = [self._image_encoder, self._vae, self._unet]

    def warm_up(self, params: RenderParams) -> None:
        """Compile what a clip of this size needs, before its time is measured."""
        warm_up(self._unet, params)

    def needs(self, stage: Stage) -> list[nn.Module]:
        """The networks that a stage computes with."""
        return [self._unet] if stage is Stage.DENOISE else [self._image_encoder, self._vae]

    def encode(self, request: RenderRequest, picture: bytes) -> Conditioning:
        """Encode a picture file; the result is on the CPU. Raises ValueError for a bad picture."""
        conditioning = stages.encode(
            self._image_encoder,
            self._vae,
            self._preprocessor,
            open_picture(picture),
            self._noise(request),
            request.params,
            recipe_of(request.params),
        )
        return conditioning.to(torch.device("cpu"))

    def denoise(
        self, request: RenderRequest, given: Conditioning | Latents, stop: int
    ) -> Generator[tuple[int, Callable[[], Sketch]], bool | None, Latents]:
        """Denoise up to step `stop`, and return the latents there.

        Yields after each step the number of steps done, and a function that makes the sketch from
        which a preview is drawn. If True is sent to it, it ends there.
        """
        params = request.params
        if isinstance(given, Latents):
            start, latents, conditioning = given.step, given.latents, given.conditioning
        else:
            start, latents, conditioning = 0, self._noise(request).latents, given
        scaling_factor = self._vae.config.scaling_factor
        recipe = recipe_of(params)
        steps = stages.denoise(
            self._unet, self._schedule, conditioning, latents, params, start, recipe
        )
        finite = torch.tensor(True)
        for step, result in zip(range(start + 1, stop + 1), steps, strict=False):
            # Reading `finite` waits for the device, so a step is checked while the next one runs.
            _check_finite(finite, step - 1, params.steps)
            latents, finite = result.latents, result.latents.isfinite().all()
            if (yield step, partial(_sketch, result.denoised, conditioning, scaling_factor)):
                stop = step
                break
        _check_finite(finite, stop, params.steps)
        return Latents(stop, latents.cpu(), conditioning)

    def _noise(self, request: RenderRequest) -> Noise:
        channels = self._vae.config.latent_channels
        recipe = recipe_of(request.params)
        return stages.draw_noise(request.params, self._unet.dtype, channels, recipe)


def _sketch(denoised: Tensor, conditioning: Conditioning, scaling_factor: float) -> Sketch:
    """Copy what a preview is drawn from to the CPU, which waits for the device."""
    return Sketch(denoised[0].cpu(), conditioning.image_latent, scaling_factor)


def _check_finite(finite: Tensor, step: int, steps: int) -> None:
    if not finite:
        raise RequestError(f"the latents hold NaN or Inf after step {step} of {steps}")


class Decoder(_Planned):
    """Keeps the VAE on its device; decodes chunks of frames and muxes clips."""

    def __init__(
        self, model: Model, weights: str, device: torch.device, compiled: bool = False
    ) -> None:
        """compiled: whether to speed the decoder up with `svd_engine.optimize`."""
        checkpoint = open_model(model, weights)
        super().__init__(checkpoint, getattr(torch, model.dtype))
        self._device = device
        self._vae = checkpoint.load_vae(device, getattr(torch, model.dtype))
        if compiled:
            optimize(self._vae)
        self.networks: list[nn.Module] = [self._vae.encoder, self._vae.decoder]

    def warm_up(self, params: RenderParams) -> None:
        """Compile what a clip of this size needs, before its time is measured."""
        warm_up(self._vae, params)

    def needs(self, stage: Stage) -> list[nn.Module]:
        """The networks that a stage computes with."""
        return [self._vae.decoder] if stage is Stage.DECODE else []

    def decode(
        self, request: RenderRequest, latents: Tensor, frames: tuple[int, int]
    ) -> video.Frames:
        """Decode the frames of one chunk (n, H, W, 3), uint8, from latents (F, C, h, w)."""
        return self._decode(request, latents[slice(*frames)])

    def decode_part(
        self, request: RenderRequest, latents: Tensor, part: Part
    ) -> Generator[None, None, video.Frames]:
        """Decode this worker's share of a clip. Yields while it waits for the other workers.

        Raises GangError.
        """
        meeting = sharded.Meeting(part.rank, part.size, part.address)
        try:
            yield from meeting.wait(RENDEZVOUS_S)
            with meeting.join(len(latents), self._device, EXCHANGE_S) as gang:
                return self._decode(request, latents[slice(*gang.share)], gang)
        except sharded.GangError as error:
            raise GangError(str(error)) from error

    def _decode(
        self, request: RenderRequest, latents: Tensor, seam: Seam | None = None
    ) -> video.Frames:
        recipe, chunk_size = recipe_of(request.params), request.params.decode_chunk_size
        decoded = stages.decode(self._vae, latents, chunk_size, recipe, seam=seam)
        return stages.to_uint8(decoded, recipe).numpy()


def open_model(model: Model, weights: str) -> Checkpoint:
    """Open a model, and check that this node has the weights that the request was made for."""
    checkpoint = open_checkpoint(model.name, model.variant)
    if checkpoint.digest != weights:
        raise ValueError(
            f"its weights are {checkpoint.digest[:12]}, the request's are {weights[:12]}; "
            "give every node the same model, and submit again"
        )
    return checkpoint
