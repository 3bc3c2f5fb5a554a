"""diffusers as the reference: it makes random checkpoints, and its computations are recorded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

try:  # without torchvision, CLIPImageProcessor is an alias of this class, and warns about it
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor  # type: ignore[assignment]

CROSS_DOWN, DOWN = "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"
CROSS_UP, UP = "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Spec:
    """The configuration of a random checkpoint, and the parameters of a clip to render with it.

    The sizes keep the deepest level larger than one pixel. At one pixel, a group of two values is
    normalized to plus and minus one, and float32 differs from float64 by 1e-3, in diffusers too.
    """

    name: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    clip: dict[str, Any]
    render: dict[str, Any]  # diffusers' call parameters
    scheduler: dict[str, Any] = field(default_factory=dict)


SPECS = {
    spec.name: spec
    for spec in (
        Spec(
            "shallow",
            unet={
                "block_out_channels": (32, 64, 64, 64),
                "num_attention_heads": (1, 2, 4, 4),
                "layers_per_block": 1,
                "cross_attention_dim": 32,
                "num_frames": 5,
            },
            vae={"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1},
            clip={"hidden_size": 32, "num_attention_heads": 2, "projection_dim": 32},
            render={"width": 128, "height": 128},
        ),
        Spec(
            "published-depth",  # two layers everywhere, as in SVD; sides not divisible by 64
            unet={
                "block_out_channels": (32, 64, 96, 96),
                "num_attention_heads": (1, 2, 3, 6),
                "layers_per_block": 2,
                "cross_attention_dim": 48,
                "num_frames": 3,
            },
            vae={"block_out_channels": (32, 64, 64, 96), "layers_per_block": 2},
            clip={"hidden_size": 48, "num_attention_heads": 4, "projection_dim": 48},
            render={"width": 104, "height": 72, "decode_chunk_size": 2},
        ),
        Spec(
            "attention-below",  # attention at other levels, two transformer layers; a portrait
            unet={
                "block_out_channels": (64, 32, 64, 64),
                "num_attention_heads": 2,
                "layers_per_block": 1,
                "transformer_layers_per_block": 2,
                "cross_attention_dim": 32,
                "down_block_types": (DOWN, CROSS_DOWN, DOWN, CROSS_DOWN),
                "up_block_types": (CROSS_UP, UP, CROSS_UP, UP),
                "num_frames": 4,
            },
            vae={"block_out_channels": (32, 32, 32, 64), "layers_per_block": 3},
            clip={"hidden_size": 32, "num_attention_heads": 4, "projection_dim": 32},
            render={"width": 72, "height": 136, "fps": 13, "motion_bucket_id": 30},
            scheduler={"timestep_spacing": "trailing"},
        ),
        Spec(
            "three-levels",  # uneven layers, another time embedding; guidance falls over the frames
            unet={
                "block_out_channels": (32, 64, 128),
                "num_attention_heads": (4, 2, 8),
                "layers_per_block": (1, 2, 1),
                "cross_attention_dim": 64,
                "addition_time_embed_dim": 64,
                "projection_class_embeddings_input_dim": 192,
                "down_block_types": (CROSS_DOWN, CROSS_DOWN, DOWN),
                "up_block_types": (UP, CROSS_UP, CROSS_UP),
                "num_frames": 7,
            },
            vae={"block_out_channels": (32, 32, 32, 32), "layers_per_block": 2},
            clip={"hidden_size": 64, "num_attention_heads": 2, "projection_dim": 64},
            render={
                "width": 72,
                "height": 56,
                "min_guidance_scale": 4.0,
                "max_guidance_scale": 1.5,
                "noise_aug_strength": 0.2,
            },
            scheduler={"sigma_max": 80.0, "timestep_spacing": "linspace"},
        ),
        Spec(
            "no-upcast",  # one frame more than a chunk; CLIP with another activation
            unet={
                "block_out_channels": (32, 32, 64, 96),
                "num_attention_heads": (2, 1, 4, 3),
                "layers_per_block": 2,
                "cross_attention_dim": 32,
                "num_frames": 6,
            },
            vae={
                "block_out_channels": (64, 64, 64, 64),
                "layers_per_block": 1,
                "force_upcast": False,
            },
            clip={
                "hidden_size": 32,
                "num_attention_heads": 2,
                "projection_dim": 32,
                "hidden_act": "gelu",
            },
            render={"width": 80, "height": 64, "decode_chunk_size": 5, "noise_aug_strength": 0.0},
        ),
    )
}


def make_checkpoint(spec: Spec, folder: Path) -> Path:
    """Save a random pipeline of the spec with diffusers itself."""
    torch.manual_seed(sum(map(ord, spec.name)))
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4, sample_size=64, **spec.vae
    )
    tower: dict[str, Any] = {
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "patch_size": 32,
        "image_size": 224,
    }
    pipeline = StableVideoDiffusionPipeline(
        vae=randomize(vae),
        image_encoder=randomize(
            CLIPVisionModelWithProjection(CLIPVisionConfig(**tower, **spec.clip))
        ),
        unet=randomize(UNetSpatioTemporalConditionModel(**spec.unet)),
        scheduler=EulerDiscreteScheduler(**(SCHEDULER | spec.scheduler)),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.save_pretrained(folder)
    return folder


@torch.no_grad()
def randomize(model: torch.nn.Module) -> Any:
    """Move every parameter off its initial value: norms off 1, biases and blends off 0."""
    for parameter in model.parameters():
        spread = parameter.std() if parameter.dim() > 1 else 0.2
        parameter.add_(torch.randn_like(parameter) * spread * 0.5)
    return model.eval()


def load_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> StableVideoDiffusionPipeline:
    """Load the reference pipeline, without its progress bar."""
    pipeline = StableVideoDiffusionPipeline.from_pretrained(folder, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass
class Recording:
    """The inputs and outputs of the reference, stage by stage."""

    # What has no default is set by `record`.
    pixels: Tensor = field(init=False)  # CLIP's input
    embedding: Tensor = field(init=False)
    vae_input: Tensor = field(init=False)
    image_latent: Tensor = field(init=False)
    unet_inputs: list[dict[str, Tensor]] = field(default_factory=list)
    unet_outputs: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)  # after each step
    sigmas: Tensor = field(init=False)
    timesteps: Tensor = field(init=False)
    decoded: Tensor = field(init=False)  # (F, 3, H, W)
    frames: np.ndarray = field(init=False)  # uint8 (F, H, W, 3)


def record(
    pipeline: StableVideoDiffusionPipeline, image: Image.Image, seed: int = 0, **call: Any
) -> Recording:
    """Run the reference, and record its networks' inputs and outputs."""
    tape = Recording()
    parts: list[Tensor] = []

    def on_clip(_module: Any, args: Any, kwargs: Any, out: Any) -> None:
        tape.pixels = (args[0] if args else kwargs["pixel_values"]).clone()
        tape.embedding = out.image_embeds.clone()

    def on_unet(_module: Any, args: Any, kwargs: Any, out: Any) -> None:
        kwargs = {k: v.clone() for k, v in kwargs.items() if isinstance(v, Tensor)}
        tape.unet_inputs.append({"sample": args[0].clone(), "timestep": args[1].clone(), **kwargs})
        tape.unet_outputs.append(out[0].clone())

    def on_encoder(_module: Any, args: Any, out: Any) -> None:
        tape.vae_input = args[0].clone()

    def on_quant(_module: Any, args: Any, out: Any) -> None:
        tape.image_latent = out.chunk(2, dim=1)[0].clone()

    def on_decoder(_module: Any, args: Any, kwargs: Any, out: Any) -> None:
        parts.append(out.clone())

    def on_step(_pipeline: Any, _i: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tape.latents.append(tensors["latents"].clone())
        return {}

    hooks = [
        pipeline.image_encoder.register_forward_hook(on_clip, with_kwargs=True),
        pipeline.unet.register_forward_hook(on_unet, with_kwargs=True),
        pipeline.vae.encoder.register_forward_hook(on_encoder),
        pipeline.vae.quant_conv.register_forward_hook(on_quant),
        pipeline.vae.decoder.register_forward_hook(on_decoder, with_kwargs=True),
    ]
    try:
        out = pipeline(
            image,
            generator=torch.Generator("cpu").manual_seed(seed),
            callback_on_step_end=on_step,
            **call,
        )
    finally:
        for hook in hooks:
            hook.remove()
    tape.sigmas = pipeline.scheduler.sigmas.clone()
    tape.timesteps = pipeline.scheduler.timesteps.clone()
    tape.decoded = torch.cat(parts).float()
    tape.frames = np.stack([np.asarray(frame) for frame in out.frames[0]])
    return tape


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference, divided by the reference's largest absolute value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
