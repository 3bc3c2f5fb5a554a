"""Recording: an engine's render with listeners in its recipe; and what is told of the machine."""

import platform
import resource
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svd_engine.conditioning import Conditioning, Noise
from svd_engine.conformance.traces import step_key
from svd_engine.engine import Clip, Engine
from svd_engine.params import RenderParams
from svd_engine.picture import Picture
from svd_engine.recipe import Recipe, recipe_of

LIBRARIES = ("torch", "transformers", "safetensors", "numpy", "pillow", "diffusers")
MB = 2**20


class Recorder:
    """Keeps copies of the tensors it is given, and how much memory there was in use."""

    def __init__(self, only: Sequence[str] = (), at: Collection[int] | None = None) -> None:
        """only: patterns, as step.*.latents; none is all. at: the steps that are kept."""
        self.tensors: dict[str, Tensor] = {}
        self.memory: list[dict[str, Any]] = []
        self._only, self._at = tuple(only), at
        self._began = time.perf_counter()

    def put(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor, where it is wanted."""
        if not self._only or any(fnmatchcase(key, pattern) for pattern in self._only):
            self.tensors[key] = tensor.detach().to("cpu", copy=True)

    def put_step(self, step: int, what: str, tensor: Tensor) -> None:
        """Keep a tensor of a step, where it is wanted."""
        if self._at is None or step in self._at:
            self.put(step_key(step, what), tensor)

    def note(self, stage: str) -> None:
        """How much memory is in use at the end of a stage."""
        told: dict[str, Any] = {"stage": stage, "at_s": time.perf_counter() - self._began}
        told["process_mb"] = _resident_mb()
        told["process_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_available():
            told["cuda_mb"] = torch.cuda.memory_allocated() / MB
            told["cuda_peak_mb"] = torch.cuda.max_memory_allocated() / MB
        self.memory.append({k: round(v, 3) if isinstance(v, float) else v for k, v in told.items()})


def _resident_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return 0.0
    return pages * resource.getpagesize() / MB


def record(engine: Engine, picture: Picture, params: RenderParams, recorder: Recorder) -> Clip:
    """Render, and record what was computed."""
    recorder.note("load")
    clip = engine.render(picture, params, recipe=listen(recipe_of(params), recorder))
    recorder.note("decode")
    return clip


def listen(recipe: Recipe, recorder: Recorder) -> Recipe:
    """The recipe, its functions telling the recorder what they give."""
    told = _Told(recipe, recorder)
    return replace(
        recipe,
        draw_noise=told.draw_noise,
        clip_pixels=told.kept("clip.pixels", recipe.clip_pixels),
        augment=told.kept("image.augmented", recipe.augment),
        sigmas=told.kept("sigmas", recipe.sigmas),
        timesteps=told.kept("timesteps", recipe.timesteps),
        initial_latents=told.kept("latents.init", recipe.initial_latents),
        pair=told.pair,
        guidance_scales=told.guidance_scales,
        join=told.kept_of_step("model_input", recipe.join),
        predict=told.kept_of_step("model_output", recipe.predict),
        euler_step=told.euler_step,
        unscale=told.kept("decode.latents", recipe.unscale),
        to_uint8=told.to_uint8,
    )


class _Told:
    """Functions of a recipe that tell a recorder what they give; of one render."""

    def __init__(self, recipe: Recipe, recorder: Recorder) -> None:
        self._recipe, self._recorder, self._put = recipe, recorder, recorder.put
        self._step = 0

    def kept(self, key: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def heard(*args: Any) -> Tensor:
            tensor = function(*args)
            self._put(key, tensor)
            return tensor

        return heard

    def kept_of_step(self, what: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def heard(*args: Any) -> Tensor:
            tensor = function(*args)
            self._recorder.put_step(self._step, what, tensor)
            return tensor

        return heard

    def draw_noise(self, *args: Any) -> Noise:
        noise = self._recipe.draw_noise(*args)
        self._put("image.noise", noise.picture)
        return noise

    def pair(self, told: Conditioning, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        self._recorder.note("encode")
        self._put("clip.embedding", told.embedding)
        self._put("image.latent", told.image_latent)
        self._put("time_ids", told.time_ids)
        return self._recipe.pair(told, *args)

    def guidance_scales(self, *args: Any) -> Tensor:
        scales = self._recipe.guidance_scales(*args)
        self._put("guidance", scales[0] if (scales == scales[0]).all() else scales)
        return scales

    def euler_step(self, latents: Tensor, v: Tensor, *sigmas: Tensor) -> Tensor:
        latents = self._recipe.euler_step(latents, v, *sigmas)
        self._recorder.put_step(self._step, "guided", v)
        self._recorder.put_step(self._step, "latents", latents)
        self._recorder.note(f"step {self._step}")
        self._step += 1
        return latents

    def to_uint8(self, frames: Tensor) -> Tensor:
        self._put("frames", frames)
        levels = self._recipe.to_uint8(frames)
        self._put("frames.uint8", levels)
        return levels


def about_machine(device: str) -> dict[str, Any]:
    """Versions of the libraries, of CUDA, and the device's name."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    told: dict[str, Any] = {"versions": versions, "device": device, "machine": platform.machine()}
    if torch.device(device).type == "cuda":
        told["device_name"] = torch.cuda.get_device_name(device)
        told["cuda"], told["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    return told
