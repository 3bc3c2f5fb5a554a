"""Writes `tiny`, a small checkpoint with random weights in the published layout.

Its clips are noise. It makes it possible to run everything without a download or a GPU.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from svd_engine.clip import ImageEncoder
from svd_engine.config import ClipConfig, UNetConfig, VAEConfig
from svd_engine.unet import UNet
from svd_engine.vae import VAE

VERSION = 1  # of the weights and configs below; part of the cached folder's name

MODEL_INDEX = {
    "_class_name": "StableVideoDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
}
CLIP_CONFIG = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "model_type": "clip_vision_model",
    "hidden_act": "gelu",
    "hidden_size": 64,
    "image_size": 224,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 32,
    "projection_dim": 64,
}
UNET_CONFIG = {
    "_class_name": "UNetSpatioTemporalConditionModel",
    "addition_time_embed_dim": 32,
    "block_out_channels": [32, 32, 64, 64],
    "cross_attention_dim": 64,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
    "in_channels": 8,
    "layers_per_block": 1,
    "num_attention_heads": [1, 2, 4, 4],
    "num_frames": 8,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 96,
    "sample_size": 16,
    "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
}
VAE_CONFIG = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "block_out_channels": [32, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "out_channels": 3,
    "sample_size": 128,
    "scaling_factor": 0.18215,
}
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
PREPROCESSOR = {
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
RENDER_DEFAULTS = {"width": 192, "height": 128, "num_frames": 8}


def write_tiny(folder: str | os.PathLike[str], seed: int = 0) -> Path:
    """Write the checkpoint to a new or empty folder. The same seed gives the same bytes."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "not empty" if folder.is_dir() else "a file"
        raise FileExistsError(f"{folder} is {what}; give a new or an empty folder")
    _write_json(folder / "model_index.json", MODEL_INDEX)
    _write_json(folder / "render_defaults.json", RENDER_DEFAULTS)
    _write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
    _write_json(folder / "feature_extractor/preprocessor_config.json", PREPROCESSOR)
    generator = torch.Generator("cpu").manual_seed(seed)
    tower = ImageEncoder(ClipConfig.model_validate(CLIP_CONFIG))
    _write(folder / "image_encoder", CLIP_CONFIG, tower, "model", generator)
    unet = UNet(UNetConfig.model_validate(UNET_CONFIG))
    _write(folder / "unet", UNET_CONFIG, unet, "diffusion_pytorch_model", generator)
    vae = VAE(VAEConfig.model_validate(VAE_CONFIG))
    _write(folder / "vae", VAE_CONFIG, vae, "diffusion_pytorch_model", generator)
    return folder


def cached_tiny() -> Path:
    """The checkpoint in the user's cache folder, which the first call writes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svd-engine"
    folder = cache / f"tiny-{VERSION}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=cache, prefix="tiny-"))
    try:
        write_tiny(scratch).rename(folder)
    except OSError:
        # Another process was first: renaming onto a folder with files fails.
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")


def _write(
    folder: Path, config: dict[str, Any], network: nn.Module, name: str, generator: torch.Generator
) -> None:
    _write_json(folder / "config.json", config)
    tensors = {
        key: _random(key, value, generator) for key, value in sorted(network.state_dict().items())
    }
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})


def _random(key: str, value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random weights that preserve the scale of activations: norms near 1, biases near 0.

    The decoder's last convolution has smaller ones, so that few pixels are clipped.
    """
    noise = torch.randn(value.shape, generator=generator)
    if value.dim() > 1:
        loudness = 0.3 if key.startswith("decoder.conv_out") else 1.0
        return loudness * noise / value[0].numel() ** 0.5
    return 1 + 0.1 * noise if "norm" in key and key.endswith("weight") else 0.1 * noise
