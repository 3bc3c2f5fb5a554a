"""Records a trace of diffusers' `StableVideoDiffusionPipeline`. Needs diffusers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svd_engine.conditioning import frame_shape
from svd_engine.conformance.record import Recorder
from svd_engine.conformance.traces import TraceError
from svd_engine.params import RenderParams
from svd_engine.picture_pixels import fit_picture
from svd_engine.schedule import aligned_sigmas

PIPELINE = "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion"


def load_reference(folder: Path, device: str, dtype: torch.dtype, variant: str | None) -> Any:
    """Load a checkpoint into diffusers' pipeline. Raises ImportError without diffusers."""
    try:
        pipeline_class = import_module(PIPELINE).StableVideoDiffusionPipeline
    except ImportError as error:
        raise ImportError(
            f"diffusers cannot be loaded ({error}): pip install 'svd-render-farm[diffusers]'"
        ) from error
    pipeline = pipeline_class.from_pretrained(folder, dtype=dtype, variant=variant)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def record_reference(
    pipeline: Any, image: Image.Image, params: RenderParams, recorder: Recorder
) -> None:
    """Render with diffusers, and record what it computed. params: already resolved.

    Raises TraceError for what diffusers does not support: deviations, and reuse of features.
    """
    if params.reuse_interval > 1:
        raise TraceError("diffusers reuses no features: leave out the tier reuse and its interval")
    if params.deviations:
        raise TraceError(f"diffusers cannot deviate: leave out {', '.join(params.deviations)}")
    width, height, frames = frame_shape(params)
    recorder.note("load")
    with _listening(pipeline, recorder):
        made = pipeline(
            fit_picture(image, width, height, params.fit),
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=params.steps,
            sigmas=_sigmas(pipeline, params),
            min_guidance_scale=params.min_guidance_scale,
            max_guidance_scale=params.max_guidance_scale,
            fps=params.fps,
            motion_bucket_id=params.motion,
            noise_aug_strength=params.noise_aug_strength,
            decode_chunk_size=params.decode_chunk_size,
            generator=torch.Generator("cpu").manual_seed(params.seed),
        )
    recorder.put("guidance", pipeline.guidance_scale.flatten())
    recorder.put("sigmas", pipeline.scheduler.sigmas)
    recorder.put("timesteps", pipeline.scheduler.timesteps)
    levels = np.stack([np.asarray(frame) for frame in made.frames[0]])
    recorder.put("frames.uint8", torch.from_numpy(levels))
    recorder.note("decode")


def _sigmas(pipeline: Any, params: RenderParams) -> list[float] | None:
    """The sigmas to pass to diffusers; None for its own schedule."""
    if params.tier != "fast":
        return None if params.sigmas is None else list(params.sigmas)
    schedule = pipeline.scheduler.config
    return aligned_sigmas(params.steps, schedule.sigma_min, schedule.sigma_max).tolist()


@contextmanager
def _listening(pipeline: Any, recorder: Recorder) -> Iterator[None]:
    """Record the arguments and results of the pipeline's networks and methods."""
    callbacks = _Callbacks(recorder)
    with ExitStack() as stack:
        for hook in (
            pipeline.image_encoder.register_forward_hook(callbacks.on_clip, with_kwargs=True),
            pipeline.unet.register_forward_hook(callbacks.on_unet, with_kwargs=True),
            pipeline.vae.encoder.register_forward_pre_hook(callbacks.on_encoder),
        ):
            stack.callback(hook.remove)
        for owner, name, callback in (
            (import_module(PIPELINE), "randn_tensor", callbacks.on_noise),
            (pipeline, "_encode_vae_image", callbacks.on_image),
            (pipeline, "prepare_latents", callbacks.on_latents),
            (pipeline.scheduler, "step", callbacks.on_step),
            (pipeline.vae, "decode", callbacks.on_decode),
        ):
            stack.enter_context(_calling_after(owner, name, callback))
        yield
    callbacks.put_chunks()


class _Callbacks:
    """Callbacks that put what the pipeline computes into a recorder. For one render only."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._put, self._step = recorder, recorder.put, 0
        self._noises = 0
        self._chunks: list[tuple[Tensor, Tensor]] = []

    def on_clip(self, _module: Any, args: Any, kwargs: Any, out: Any) -> None:
        self._put("clip.pixels", args[0] if args else kwargs["pixel_values"])
        self._put("clip.embedding", out.image_embeds[:, None])

    def on_encoder(self, _module: Any, args: Any) -> None:
        self._put("image.augmented", args[0])

    def on_unet(self, _module: Any, args: Any, kwargs: Any, out: Any) -> None:
        self._recorder.put_step(self._step, "model_input", args[0])
        self._recorder.put_step(self._step, "model_output", out[0])
        self._put("time_ids", kwargs["added_time_ids"][-1:])

    def on_noise(self, out: Tensor, *_: Any, **__: Any) -> None:
        if not self._noises:  # the first noise is the picture's
            self._put("image.noise", out)
        self._noises += 1

    def on_image(self, out: Tensor, *_: Any, **__: Any) -> None:
        self._put("image.latent", out[-1:])
        self._recorder.note("encode")

    def on_latents(self, out: Tensor, *_: Any, **__: Any) -> None:
        self._put("latents.init", out)

    def on_step(self, out: Any, v: Tensor, *_: Any, **__: Any) -> None:
        latents = out[0] if isinstance(out, tuple) else out.prev_sample
        self._recorder.put_step(self._step, "guided", v)
        self._recorder.put_step(self._step, "latents", latents)
        self._recorder.note(f"step {self._step}")
        self._step += 1

    def on_decode(self, out: Any, latents: Tensor, *_: Any, **__: Any) -> None:
        self._chunks.append((latents, out.sample))

    def put_chunks(self) -> None:
        """Record the decoder's chunks, joined to one clip."""
        latents, frames = zip(*self._chunks, strict=True)
        self._put("decode.latents", torch.cat(latents))
        self._put("frames", torch.cat(frames))


@contextmanager
def _calling_after(owner: Any, name: str, callback: Callable[..., object]) -> Iterator[None]:
    """Call `callback` after each call of a function of `owner`, with its result and arguments."""
    function = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        out = function(*args, **kwargs)
        callback(out, *args, **kwargs)
        return out

    own = name in vars(owner)
    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, function)
        else:
            delattr(owner, name)
