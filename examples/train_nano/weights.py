"""nano's configs (CLIP's tower has tiny's), and random weights that pass signals on."""

from typing import Any, TypeVar

import torch
from torch import Generator, nn

from svd_engine.tiny import CLIP_CONFIG

APPEARANCE = 28  # channels of a latent that say how a frame looks
MOTION = 2  # and those that say how far it has moved; a picture has zeros there
CHANNELS = APPEARANCE + MOTION
FRAMES = 14  # of a clip

Network = TypeVar("Network", bound=nn.Module)


def vae_config() -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKLTemporalDecoder",
        "block_out_channels": [96, 64, 96, 128],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": CHANNELS,
        "layers_per_block": 1,
        "out_channels": 3,
        "sample_size": 128,
        "scaling_factor": 1.0,
    }


def unet_config() -> dict[str, Any]:
    # A frame is fetched from the picture at an offset that is predicted. That is a product of the
    # two; the gated layers of the transformers, at full resolution, learn it best.
    attention = "CrossAttn{}BlockSpatioTemporal"
    plain = "{}BlockSpatioTemporal"
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "addition_time_embed_dim": 64,
        "block_out_channels": [96, 96],
        "cross_attention_dim": CLIP_CONFIG["projection_dim"],
        "down_block_types": [kind.format("Down") for kind in (attention, plain)],
        "in_channels": 2 * CHANNELS,
        "layers_per_block": 1,
        "num_attention_heads": [3, 3],
        "num_frames": FRAMES,
        "out_channels": CHANNELS,
        "projection_class_embeddings_input_dim": 192,
        "sample_size": 16,
        "transformer_layers_per_block": 1,
        "up_block_types": [kind.format("Up") for kind in (plain, attention)],
    }


@torch.no_grad()
def initialise(network: Network, rng: Generator) -> Network:
    """Weights that keep the scale of what passes; residual branches begin at zero.

    So the network begins as a nearly linear one, and learns to be more.
    """
    last = ("conv2", "proj_out", "attentions.0.to_out.0")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, fan_in**-0.5, generator=rng)
            if name.endswith(last):
                module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
    return network
