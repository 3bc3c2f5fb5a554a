"""Counts the operations of each stage without computing them, as a lower bound of its time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from svd_engine.conditioning import latent_shape
from svd_engine.config import UNetConfig, VAEConfig
from svd_engine.params import RenderParams
from svd_engine.unet import UNet
from svd_engine.vae import VAE


def operations_of(
    unet_config: UNetConfig, vae_config: VAEConfig, params: RenderParams
) -> dict[str, int]:
    """The multiplications and additions of products, convolutions and attention, by stage.

    They are counted on the engine's own networks on `meta`, and bound both implementations, because
    diffusers computes more operations for the same result. A clip is its steps, an encode and a
    decode. CLIP is left out, since it takes less than a hundredth of one step.
    """
    with torch.device("meta"):
        unet, vae = UNet(unet_config), VAE(vae_config)
        unet.requires_grad_(False), vae.requires_grad_(False)
        inputs = step_inputs(unet_config, params)
        latents = inputs[0][0, :, : unet_config.out_channels]
        picture = torch.empty(1, 3, params.height or 0, params.width or 0)
    step = _count(unet, *inputs)
    decode, encode = _count(vae.decode, latents), _count(vae.encode, picture)
    return {
        "unet_step": step,
        "decode": decode,
        "clip": params.num_inference_steps * step + encode + decode,
    }


def step_inputs(config: UNetConfig, params: RenderParams) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random inputs of a guided UNet step, float32, on the default device; see `UNet.forward`.

    The sample has its channels innermost in memory, as `conditioning.join` makes it.
    """
    frames, channels, height, width = latent_shape(params, config.in_channels)
    sample = torch.randn(2, frames, height, width, channels).movedim(-1, 2)
    context = torch.randn(2, 1, config.per_block("cross_attention_dim")[0])
    return sample, torch.tensor(1.0), context, torch.tensor([[6.0, 127.0, 0.02]] * 2)


@torch.no_grad()
def _count(network: Callable[..., object], *inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops()
