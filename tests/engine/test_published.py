"""The published SVD and SVD-XT: the same tensors as diffusers', and its numbers at full width."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from svd_engine.checkpoint import Checkpoint
from svd_engine.clip import ImageEncoder
from svd_engine.config import ClipConfig, UNetConfig, VAEConfig
from svd_engine.unet import UNet
from svd_engine.vae import VAE
from tests.support.reference import CROSS_DOWN, CROSS_UP, DOWN, UP, relative_difference

# unet/config.json, vae/config.json and image_encoder/config.json as published.
UNET = {
    "_class_name": "UNetSpatioTemporalConditionModel",
    "_diffusers_version": "0.24.0.dev0",
    "addition_time_embed_dim": 256,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "down_block_types": [CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN],
    "in_channels": 8,
    "layers_per_block": 2,
    "num_attention_heads": [5, 10, 20, 20],
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 768,
    "sample_size": 96,
    "transformer_layers_per_block": 1,
    "up_block_types": [UP, CROSS_UP, CROSS_UP, CROSS_UP],
}
FRAMES = {"svd": 14, "svd-xt": 25}
VAE_CONFIG = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "_diffusers_version": "0.24.0.dev0",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
CLIP: dict[str, Any] = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 5120,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 32,
    "patch_size": 14,
    "projection_dim": 1024,
    "torch_dtype": "float16",
}


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def without_underscores(config: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


@pytest.mark.parametrize("model", FRAMES)
def test_unet_has_diffusers_tensors(model: str) -> None:
    config = UNET | {"num_frames": FRAMES[model]}
    with torch.device("meta"):
        ours = UNet(UNetConfig.model_validate(config))
        theirs = UNetSpatioTemporalConditionModel(**without_underscores(config))
    assert shapes(ours) == shapes(theirs)
    assert sum(p.numel() for p in ours.parameters()) == 1_524_623_082


def test_vae_has_diffusers_tensors() -> None:
    with torch.device("meta"):
        ours = VAE(VAEConfig.model_validate(VAE_CONFIG))
        theirs = AutoencoderKLTemporalDecoder(**without_underscores(VAE_CONFIG))
    assert shapes(ours) == shapes(theirs)


def test_image_encoder_has_transformers_tensors() -> None:
    with torch.device("meta"):
        ours = ImageEncoder(ClipConfig.model_validate(CLIP))
        theirs = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP))
    assert shapes(ours) == shapes(theirs)


@pytest.mark.parametrize("model", FRAMES)
def test_render_defaults_of_a_published_folder(model: str, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    config = UNET | {"num_frames": FRAMES[model]}
    (tmp_path / "unet/config.json").write_text(json.dumps(config))
    defaults = Checkpoint(tmp_path).render_defaults
    assert (defaults.width, defaults.height, defaults.num_frames) == (1024, 576, FRAMES[model])


@pytest.mark.slow
@torch.no_grad()
def test_full_width_unet_equals_diffusers() -> None:
    """1.5 billion random weights, two frames of 64 x 64 pixels. Needs about 14 GB."""
    torch.manual_seed(0)
    theirs = UNetSpatioTemporalConditionModel(**without_underscores(UNET)).eval()
    with torch.device("meta"):
        ours = UNet(UNetConfig.model_validate(UNET)).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    sample, context = torch.randn(1, 2, 8, 8, 8), torch.randn(1, 1, 1024)
    arguments = (sample, torch.tensor(0.8), context, torch.tensor([[6.0, 127.0, 0.02]]))
    reference = theirs(*arguments, return_dict=False)[0]
    assert relative_difference(ours(*arguments), reference) <= 1e-5
