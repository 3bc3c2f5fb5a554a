"""Builds the networks that are measured: ours and diffusers', with the same weights.

The shapes are the published ones. Weights are drawn at random on the device, so no files are
needed; only `nano` has real weights, which ship with the package.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import nn

from svd_engine.checkpoint import lay_out
from svd_engine.clip import ImageEncoder
from svd_engine.config import ClipConfig, PreprocessorConfig, ScheduleConfig, UNetConfig, VAEConfig
from svd_engine.engine import Engine
from svd_engine.meta_stages import Shapes
from svd_engine.params import RenderDefaults, RenderParams
from svd_engine.sizes import PUBLISHED_VAE_CHANNELS
from svd_engine.tiny import CLIP_CONFIG, PREPROCESSOR, SCHEDULER
from svd_engine.unet import UNet
from svd_engine.vae import VAE

PUBLISHED_CLIP = {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "intermediate_size": 5120,
    "num_attention_heads": 16,
    "num_hidden_layers": 32,
    "patch_size": 14,
    "projection_dim": 1024,
}


@dataclass(frozen=True)
class Preset:
    """A clip to render, and the shapes of the networks to render it with."""

    frames: int
    width: int
    height: int
    steps: int
    unet: dict[str, Any] = field(default_factory=dict)
    vae_channels: tuple[int, ...] = PUBLISHED_VAE_CHANNELS
    vae_layers: int = 2
    clip: dict[str, Any] = field(default_factory=lambda: PUBLISHED_CLIP)
    model: str | None = None  # loaded instead of drawing weights

    @property
    def unet_config(self) -> UNetConfig:
        return UNetConfig.model_validate({"num_frames": self.frames} | self.unet)

    @property
    def vae_config(self) -> VAEConfig:
        return VAEConfig(
            block_out_channels=self.vae_channels,
            down_block_types=("DownEncoderBlock2D",) * len(self.vae_channels),
            layers_per_block=self.vae_layers,
        )

    @property
    def clip_config(self) -> ClipConfig:
        return ClipConfig.model_validate(self.clip)

    @property
    def shapes(self) -> Shapes:
        """The shapes for a memory plan."""
        schedule = ScheduleConfig.model_validate(SCHEDULER)
        return Shapes(self.unet_config, self.vae_config, schedule, self.clip_config)

    @property
    def params(self) -> RenderParams:
        return RenderParams(
            width=self.width,
            height=self.height,
            num_frames=self.frames,
            num_inference_steps=self.steps,
            min_guidance_scale=1.0,
            max_guidance_scale=3.0,
            motion_bucket_id=127,
        )


SMALL_UNET = {
    "block_out_channels": (32, 32, 64, 64),
    "num_attention_heads": (1, 2, 4, 4),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
}
MID_UNET = {
    "block_out_channels": (64, 128, 256, 256),
    "num_attention_heads": (1, 2, 4, 4),
    "cross_attention_dim": 256,
}
MID_CLIP = CLIP_CONFIG | {"projection_dim": 256}
PRESETS = {
    "tiny": Preset(4, 64, 64, 2, SMALL_UNET, (32, 32, 64, 64), 1, CLIP_CONFIG),
    "nano": Preset(14, 128, 128, 25, model="nano"),
    "cpu-mid": Preset(8, 256, 256, 4, MID_UNET, (64, 128, 256, 256), 2, MID_CLIP),
    "svd": Preset(14, 1024, 576, 25),
    "svd-xt": Preset(25, 1024, 576, 25),
}


def build_engine(preset: Preset, device: torch.device, dtype: torch.dtype) -> Engine:
    """Load the preset's model, or draw weights, which are reproducible on the same device."""
    if preset.model is not None:
        return Engine.from_pretrained(preset.model, device, dtype)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            image_encoder = ImageEncoder(preset.clip_config)
            unet, vae = UNet(preset.unet_config), VAE(preset.vae_config)
    finally:
        torch.set_default_dtype(before)
    for network in (image_encoder, unet, vae):
        nn.Module.to(network, device, dtype).eval().requires_grad_(False)
        lay_out(network)
    return Engine(
        image_encoder,
        unet,
        vae,
        ScheduleConfig.model_validate(SCHEDULER),
        PreprocessorConfig.model_validate(PREPROCESSOR),
        RenderDefaults(num_frames=preset.frames),
    )


def build_diffusers(engine: Engine) -> Any:
    """Build diffusers' pipeline with an engine's weights. Raises ValueError if not installed."""
    try:
        diffusers, transformers = import_module("diffusers"), import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"diffusers cannot be loaded ({error}): pip install 'svd-render-farm[diffusers]'"
        ) from error
    unet, vae = engine.unet.config, engine.vae.config
    schedule = {key: value for key, value in SCHEDULER.items() if not key.startswith("_")}
    schedule |= engine.schedule.model_dump(include={"sigma_min", "sigma_max"})
    with torch.device("meta"):
        their_unet = diffusers.UNetSpatioTemporalConditionModel(**unet.model_dump())
        their_vae = diffusers.AutoencoderKLTemporalDecoder(**vae.model_dump())
    tower = transformers.CLIPVisionConfig(**engine.image_encoder.config.model_dump())
    pipeline = diffusers.StableVideoDiffusionPipeline(
        image_encoder=_filled(
            transformers.CLIPVisionModelWithProjection(tower), engine.image_encoder
        ),
        unet=_filled(their_unet, engine.unet),
        vae=_filled(their_vae, engine.vae),
        scheduler=diffusers.EulerDiscreteScheduler(**schedule),
        feature_extractor=transformers.CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _filled(network: nn.Module, ours: nn.Module) -> nn.Module:
    """Fill a network of diffusers on `meta` with our weights, in the layout of a checkpoint."""
    state = {key: value.contiguous() for key, value in ours.state_dict().items()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
