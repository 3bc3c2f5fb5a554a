"""Where the weights begin: the VAE's as a linear code, the UNet's as a still picture.

A VAE that begins at random needs hours to learn what a linear code has from the start. Here it
is set to the code of `linear_code.py`, along its strided convolutions and its upsamplings. All
residual branches are zero; the decoder's learn the rest.

Two things would stop a linear code: the norm and the SiLU before each last convolution.
- A norm divides by what passes through it. Each of its groups therefore also gets the constants
  REFERENCE and -REFERENCE, beside which the signal's own variance is small. In a group of two
  there is no room for both, and a flat picture's colour is lost: so the outer level has 96
  channels, which is three in a group.
- silu(u) - silu(-u) = u. So a signal that passes with both signs is read without loss.
"""

import torch
from linear_code import WIDTH, LinearCode
from torch import Tensor, nn
from weights import APPEARANCE

from svd_engine.unet import UNet
from svd_engine.vae import VAE, Encoder, FrameAttention, TemporalDecoder

REFERENCE = 10.0
STEADY = 30.0  # the same in the encoder, whose signals are louder
QUIET = 0.3  # what is not set keeps its random weights, at this scale
LOG_VARIANCE = -4.0  # of the posterior
# v of a still picture, by what is noisy and by the picture: about least squares over the training's
# noise levels (0.32, -0.97).
OF_NOISY, OF_PICTURE = 0.35, -1.05


@torch.no_grad()
def begin_vae(vae: VAE, code: LinearCode) -> None:
    """Set a VAE that `initialise` has been through."""
    _begin_encoder(vae.encoder, code)
    vae.quant_conv.weight.zero_()
    vae.quant_conv.weight.view(*vae.quant_conv.weight.shape[:2]).fill_diagonal_(1)
    vae.quant_conv.bias[vae.config.latent_channels :] = LOG_VARIANCE
    _begin_decoder(vae.decoder, code)


def _begin_encoder(encoder: Encoder, code: LinearCode) -> None:
    """Pixels are gathered from 2 x 2 into channels, twice; then come the components."""
    components = code.components
    _identity(encoder.conv_in, 3)
    _gather(encoder.down_blocks[0].downsamplers[0].conv, 3)
    _identity(encoder.down_blocks[1].resnets[0].conv_shortcut, 12)
    _gather(encoder.down_blocks[1].downsamplers[0].conv, 12)
    _identity(encoder.down_blocks[2].resnets[0].conv_shortcut, 48)
    _project(encoder.down_blocks[2].downsamplers[0].conv, components)
    _refer(encoder.down_blocks[3].resnets[0].conv_shortcut, len(components))
    _add_half_mean(encoder.mid_block.attentions[0], len(components))
    encoder.conv_out.weight.zero_()
    for sign, first in ((1, 0), (-1, 1)):
        encoder.conv_out.weight[:APPEARANCE, first::4] = (
            sign * STEADY / 2**0.5 * code.encoder.weight
        )


def _identity(conv: nn.Conv2d, channels: int) -> None:
    """The first channels pass as they are."""
    conv.weight.mul_(QUIET)
    conv.weight[:channels] = 0
    middle = conv.kernel_size[0] // 2
    for c in range(channels):
        conv.weight[c, c, middle, middle] = 1


def _gather(conv: nn.Conv2d, channels: int) -> None:
    """2 x 2 pixels of the first channels become channels: c -> 4c + 2*row + column."""
    conv.weight.mul_(QUIET)
    conv.weight[: 4 * channels] = 0
    for c in range(channels):
        for row in range(2):
            for column in range(2):
                conv.weight[4 * c + 2 * row + column, c, row, column] = 1


def _project(conv: nn.Conv2d, components: Tensor) -> None:
    """From 48 gathered channels and 2 x 2 pixels to the components of the 8 x 8 patch."""
    conv.weight.mul_(QUIET)
    conv.weight[: len(components)] = 0
    for y in range(8):
        for x in range(8):
            first, second = 2 * (y % 2) + x % 2, 2 * (y // 2 % 2) + x // 2 % 2
            for c in range(3):
                channel = 4 * (4 * c + first) + second
                conv.weight[: len(components), channel, y // 4, x // 4] = components[:, c, y, x]


def _refer(shortcut: nn.Conv2d, count: int) -> None:
    """Each group of four channels holds a component, its negative, and the two constants."""
    shortcut.weight.zero_()
    for k in range(count):
        shortcut.weight[4 * k, k] = 1
        shortcut.weight[4 * k + 1, k] = -1
        shortcut.bias[4 * k + 2] = STEADY
        shortcut.bias[4 * k + 3] = -STEADY


def _add_half_mean(attention: FrameAttention, count: int) -> None:
    """Attend to all pixels alike, and add half their mean: what the decoder's norm takes off."""
    for layer in (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]):
        layer.weight.zero_()
    for k in range(count):
        attention.to_v.weight[k, 4 * k] = STEADY / 2**0.5
        attention.to_out[0].weight[4 * k, k] = 0.5
        attention.to_out[0].weight[4 * k + 1, k] = -0.5


def _begin_decoder(decoder: TemporalDecoder, code: LinearCode) -> None:
    """The code's convolutions are those behind the upsamplings."""
    _identity(decoder.conv_in, APPEARANCE)
    decoder.conv_in.weight[:, APPEARANCE:] = 0  # pixels do not depend on how far they have come
    for block, conv in zip(decoder.up_blocks, code.decoder, strict=False):
        target = block.upsamplers[0].conv
        target.weight.mul_(QUIET)
        target.weight[: conv.out_channels] = 0
        target.weight[: conv.out_channels, : conv.in_channels] = conv.weight
        target.bias[: conv.out_channels] = conv.bias
    for block in decoder.up_blocks[1:3]:
        _identity(block.resnets[0].spatial_res_block.conv_shortcut, WIDTH)
    shortcut = decoder.up_blocks[3].resnets[0].spatial_res_block.conv_shortcut
    _read_colours(shortcut, decoder.conv_out)
    decoder.time_conv_out.weight.zero_()
    for c in range(3):
        decoder.time_conv_out.weight[c, c, 1] = 1


def _read_colours(shortcut: nn.Conv2d, out: nn.Conv2d) -> None:
    """Colours pass the last norm beside the two constants, with both signs, in groups of three.

    From x the norm makes (x - a third of its mean) / deviation: half a mean more makes up for it.
    """
    shortcut.weight.mul_(QUIET)
    shortcut.weight[:18] = 0
    out.weight.zero_()
    for c in range(3):
        for sign, group in ((1, c), (-1, 3 + c)):
            shortcut.weight[3 * group, c] = sign
            shortcut.bias[3 * group + 1] = REFERENCE
            shortcut.bias[3 * group + 2] = -REFERENCE
            out.weight[c, 3 * group, 1, 1] = sign * REFERENCE * (2 / 3) ** 0.5


@torch.no_grad()
def begin_unet(unet: UNet) -> None:
    """Set a UNet that `initialise` has been through: a still picture is where it begins.

    v is (noisy - picture) / sigma at little noise and -picture at much. It begins as the same
    mixture of both at every sigma, along the outermost skip, and learns the rest.
    """
    channels = unet.config.out_channels
    _identity(unet.conv_in, 2 * channels)
    shortcut = unet.up_blocks[-1].resnets[-1].spatial_res_block.conv_shortcut
    shortcut.weight.mul_(QUIET)
    shortcut.weight[: 3 * channels] = 0
    unet.conv_out.weight.zero_()
    skip = shortcut.in_channels - unet.conv_in.out_channels
    reference, slope = 2 * REFERENCE, 0.8263  # slope: of silu at 1 / sqrt(2)
    for k in range(channels):
        # Beside its negative and one constant a signal keeps its mean.
        for sign, channel in ((1, 3 * k), (-1, 3 * k + 1)):
            shortcut.weight[channel, skip + k] = sign * OF_NOISY
            shortcut.weight[channel, skip + channels + k] = sign * OF_PICTURE
            unet.conv_out.weight[k, channel, 1, 1] = sign * reference / (3 * 2**0.5 * slope)
        shortcut.bias[3 * k + 2] = -reference
