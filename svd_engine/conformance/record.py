"""Records what the engine computes, by wrapping a recipe's functions; and describes the machine."""

import platform
import resource
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ParamSpec

import torch
from torch import Tensor

from svd_engine.conditioning import Conditioning, Noise
from svd_engine.conformance.traces import step_key
from svd_engine.deviations import recipe_of
from svd_engine.engine import Clip, Engine
from svd_engine.params import RenderParams
from svd_engine.picture_files import Picture
from svd_engine.recipe import Recipe
from svd_engine.schedule import StepResult

LIBRARIES = ("torch", "transformers", "safetensors", "numpy", "pillow", "diffusers")
MB = 2**20
P = ParamSpec("P")


class Recorder:
    """Keeps copies of tensors, and how much memory was in use after each stage."""

    def __init__(self, only: Sequence[str] = (), at: Collection[int] | None = None) -> None:
        """only: patterns of names, such as step.*.latents, or all. at: the steps to keep."""
        self.tensors: dict[str, Tensor] = {}
        self.memory: list[dict[str, Any]] = []
        self._only, self._at = tuple(only), at
        self._began = time.perf_counter()

    def put(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor if its name was asked for."""
        if not self._only or any(fnmatchcase(key, pattern) for pattern in self._only):
            self.tensors[key] = tensor.detach().to("cpu", copy=True)

    def put_step(self, step: int, what: str, tensor: Tensor) -> None:
        """Keep a tensor of a step if both were asked for."""
        if self._at is None or step in self._at:
            self.put(step_key(step, what), tensor)

    def note(self, stage: str) -> None:
        """Note how much memory is in use at the end of a stage."""
        usage: dict[str, Any] = {"stage": stage, "at_s": time.perf_counter() - self._began}
        usage["process_mb"] = _resident_mb()
        usage["process_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_available():
            usage["cuda_mb"] = torch.cuda.memory_allocated() / MB
            usage["cuda_peak_mb"] = torch.cuda.max_memory_allocated() / MB
        self.memory.append(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in usage.items()}
        )


def _resident_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return 0.0
    return pages * resource.getpagesize() / MB


def record(engine: Engine, picture: Picture, params: RenderParams, recorder: Recorder) -> Clip:
    """Render a clip, and record what was computed."""
    recorder.note("load")
    clip = engine.render(picture, params, recipe=listen(recipe_of(params), recorder))
    recorder.note("decode")
    return clip


def listen(recipe: Recipe, recorder: Recorder) -> Recipe:
    """The recipe, with functions that also put their results into the recorder."""
    recorded = _Recorded(recipe, recorder)
    return replace(
        recipe,
        draw_noise=recorded.draw_noise,
        clip_pixels=recorded.keeping("clip.pixels", recipe.clip_pixels),
        augment=recorded.keeping("image.augmented", recipe.augment),
        sigmas=recorded.keeping("sigmas", recipe.sigmas),
        timesteps=recorded.keeping("timesteps", recipe.timesteps),
        initial_latents=recorded.keeping("latents.init", recipe.initial_latents),
        pair=recorded.pair,
        guidance_scales=recorded.guidance_scales,
        join=recorded.keeping_of_step("model_input", recipe.join),
        predict=recorded.keeping_of_step("model_output", recipe.predict),
        euler_step=recorded.euler_step,
        unscale=recorded.keeping("decode.latents", recipe.unscale),
        to_uint8=recorded.to_uint8,
    )


class _Recorded:
    """Functions of a recipe that put their results into a recorder. For one render only."""

    def __init__(self, recipe: Recipe, recorder: Recorder) -> None:
        self._recipe, self._recorder, self._put = recipe, recorder, recorder.put
        self._step = 0

    def keeping(self, key: str, function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        """The function, its result recorded under `key`."""

        def recorded(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            tensor = function(*args, **kwargs)
            self._put(key, tensor)
            return tensor

        return recorded

    def keeping_of_step(self, what: str, function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        """The function, its result recorded under the current step."""

        def recorded(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            tensor = function(*args, **kwargs)
            self._recorder.put_step(self._step, what, tensor)
            return tensor

        return recorded

    def draw_noise(self, params: RenderParams, dtype: torch.dtype, channels: int) -> Noise:
        noise = self._recipe.draw_noise(params, dtype, channels)
        self._put("image.noise", noise.picture)
        return noise

    def pair(
        self, conditioning: Conditioning, frames: int, guided: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        self._recorder.note("encode")
        self._put("clip.embedding", conditioning.embedding)
        self._put("image.latent", conditioning.image_latent)
        self._put("time_ids", conditioning.time_ids)
        return self._recipe.pair(conditioning, frames, guided)

    def guidance_scales(self, lowest: float, highest: float, frames: int, steps: int) -> Tensor:
        scales = self._recipe.guidance_scales(lowest, highest, frames, steps)
        self._put("guidance", scales[0] if (scales == scales[0]).all() else scales)
        return scales

    def euler_step(
        self, latents: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor
    ) -> StepResult:
        result = self._recipe.euler_step(latents, v, sigma, sigma_next)
        self._recorder.put_step(self._step, "guided", v)
        self._recorder.put_step(self._step, "latents", result.latents)
        self._recorder.note(f"step {self._step}")
        self._step += 1
        return result

    def to_uint8(self, frames: Tensor) -> Tensor:
        self._put("frames", frames)
        levels = self._recipe.to_uint8(frames)
        self._put("frames.uint8", levels)
        return levels


def about_machine(device: str) -> dict[str, Any]:
    """The versions of the libraries and of CUDA, and the device's name."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    about: dict[str, Any] = {"versions": versions, "device": device, "machine": platform.machine()}
    if torch.device(device).type == "cuda":
        about["device_name"] = torch.cuda.get_device_name(device)
        about["cuda"], about["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    return about
