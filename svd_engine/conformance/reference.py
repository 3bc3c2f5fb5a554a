"""Recording diffusers: the same tensors, from `StableVideoDiffusionPipeline`. Needs diffusers."""

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
from svd_engine.image import fit_picture
from svd_engine.params import RenderParams

PIPELINE = "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion"


def load_reference(folder: Path, device: str, dtype: torch.dtype, variant: str | None) -> Any:
    """Diffusers' pipeline of a checkpoint; TraceError where diffusers is not installed."""
    try:
        pipeline_class = import_module(PIPELINE).StableVideoDiffusionPipeline
    except ImportError as error:
        raise TraceError(
            f"diffusers cannot be loaded ({error}): pip install 'svd-render-farm[diffusers]'"
        ) from error
    pipeline = pipeline_class.from_pretrained(folder, dtype=dtype, variant=variant)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def record_reference(
    pipeline: Any, image: Image.Image, params: RenderParams, recorder: Recorder
) -> None:
    """Render with diffusers, and record what it computed. params: with nothing left open.

    TraceError for deviations: diffusers has none of them.
    """
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
            sigmas=None if params.sigmas is None else list(params.sigmas[:-1]),
            min_guidance_scale=params.min_guidance_scale,
            max_guidance_scale=params.max_guidance_scale,
            fps=params.fps,
            motion_bucket_id=params.motion_bucket_id,
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


@contextmanager
def _listening(pipeline: Any, recorder: Recorder) -> Iterator[None]:
    """Hear what the pipeline's networks and methods are given, and what they give."""
    put, step = recorder.put, 0
    noises: list[Tensor] = []
    chunks: list[tuple[Tensor, Tensor]] = []

    def on_clip(_module: Any, args: Any, kwargs: Any, out: Any) -> None:
        put("clip.pixels", args[0] if args else kwargs["pixel_values"])
        put("clip.embedding", out.image_embeds[:, None])

    def on_unet(_module: Any, args: Any, kwargs: Any, out: Any) -> None:
        recorder.put_step(step, "model_input", args[0])
        recorder.put_step(step, "model_output", out[0])
        put("time_ids", kwargs["added_time_ids"][-1:])

    def on_noise(out: Tensor, *_args: Any, **_kwargs: Any) -> None:
        if not noises:  # the first is the picture's
            put("image.noise", out)
        noises.append(out)

    def on_image(out: Tensor, *_args: Any, **_kwargs: Any) -> None:
        put("image.latent", out[-1:])
        recorder.note("encode")

    def on_step(out: Any, v: Tensor, *_args: Any, **_kwargs: Any) -> None:
        nonlocal step
        recorder.put_step(step, "guided", v)
        recorder.put_step(step, "latents", out[0] if isinstance(out, tuple) else out.prev_sample)
        recorder.note(f"step {step}")
        step += 1

    def on_decode(out: Any, latents: Tensor, *_args: Any, **_kwargs: Any) -> None:
        chunks.append((latents, out.sample))

    with ExitStack() as stack:
        for hook in (
            pipeline.image_encoder.register_forward_hook(on_clip, with_kwargs=True),
            pipeline.unet.register_forward_hook(on_unet, with_kwargs=True),
            pipeline.vae.encoder.register_forward_pre_hook(
                lambda _module, args: put("image.augmented", args[0])
            ),
        ):
            stack.callback(hook.remove)
        for owner, name, heard in (
            (import_module(PIPELINE), "randn_tensor", on_noise),
            (pipeline, "_encode_vae_image", on_image),
            (pipeline, "prepare_latents", lambda out, *_, **__: put("latents.init", out)),
            (pipeline.scheduler, "step", on_step),
            (pipeline.vae, "decode", on_decode),
        ):
            stack.enter_context(_hearing(owner, name, heard))
        yield
    put("decode.latents", torch.cat([latents for latents, _ in chunks]))
    put("frames", torch.cat([frames for _, frames in chunks]))


@contextmanager
def _hearing(owner: Any, name: str, heard: Callable[..., object]) -> Iterator[None]:
    """Let a function of `owner` be heard: what it gave, then what it was given."""
    function = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        out = function(*args, **kwargs)
        heard(out, *args, **kwargs)
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
