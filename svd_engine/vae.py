"""The VAE: an encoder of pictures, and a decoder of clips with temporal layers.

Shapes: B clips, F frames, H x W pixels, h x w = H/8 x W/8 latent pixels. Inside, pictures are
(N, H, W, C) and frames (B, F, H, W, C); see `layers`. Module names are those of
`AutoencoderKLTemporalDecoder`.
"""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.config import VAEConfig
from svd_engine.group_norm import GroupNorm
from svd_engine.layers import (
    Conv,
    ResBlock,
    SpatioTemporalResBlock,
    TemporalConv,
    over_pixels,
)
from svd_engine.transformer import SelfAttention


class FrameAttention(SelfAttention):
    """Attention with a single head over the pixels of each frame: (..., h, w, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = GroupNorm(channels, eps=1e-6, silu=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = over_pixels(self.group_norm, x).flatten(0, -4).flatten(1, 2)
        return super().forward(tokens).view_as(x).add_(x)


class EncoderDownsample(nn.Module):
    """A convolution to half the size, padded only on the right and at the bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 0, 0, 1, 0, 1)))


class EncoderBlock(nn.Module):
    """Residual blocks, then a convolution to half the size."""

    def __init__(self, c_in: int, c_out: int, layers: int, downsample: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResBlock(c_in if i == 0 else c_out, c_out, 1e-6) for i in range(layers)
        )
        self.downsamplers = nn.ModuleList([EncoderDownsample(c_out)]) if downsample else None

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for downsample in self.downsamplers or ():
            x = downsample(x)
        return x


class EncoderMidBlock(nn.Module):
    """Attention between two residual blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels, channels, 1e-6) for _ in range(2))
        self.attentions = nn.ModuleList([FrameAttention(channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    """Encodes pictures (N, H, W, 3) in [-1, 1] to the mean and log variance (N, h, w, 2C)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.block_out_channels
        self.conv_in = Conv(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            EncoderBlock(channels[max(i - 1, 0)], c, config.layers_per_block, i < len(channels) - 1)
            for i, c in enumerate(channels)
        )
        self.mid_block = EncoderMidBlock(channels[-1])
        self.conv_norm_out = GroupNorm(channels[-1], eps=1e-6)
        self.conv_out = Conv(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(over_pixels(self.conv_norm_out, self.mid_block(x)))


def _decoder_resnets(c_in: int, c_out: int, layers: int) -> nn.ModuleList:
    return nn.ModuleList(
        SpatioTemporalResBlock(c_in if i == 0 else c_out, c_out, 1e-6, 1e-5, switched=True)
        for i in range(layers)
    )


class DecoderUpsample(nn.Module):
    """Nearest neighbour to twice the size, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv.of_doubled(x)


class DecoderBlock(nn.Module):
    """Residual blocks, then an enlargement to twice the size."""

    def __init__(self, c_in: int, c_out: int, layers: int, upsample: bool) -> None:
        super().__init__()
        self.resnets = _decoder_resnets(c_in, c_out, layers)
        self.upsamplers = nn.ModuleList([DecoderUpsample(c_out)]) if upsample else None

    def layers(self) -> Iterator[nn.Module]:
        """The layers in the order of use."""
        yield from self.resnets
        yield from self.upsamplers or ()


class DecoderMidBlock(nn.Module):
    """Attention after the first residual block.

    diffusers pairs its only attention with the second residual block and runs no further pair. So
    with one layer the attention is unused, and with three the last block is unused. The weights
    were trained like this.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.resnets = _decoder_resnets(channels, channels, layers)
        self.attentions = nn.ModuleList([FrameAttention(channels)])

    def layers(self) -> Iterator[nn.Module]:
        """The layers in the order of use."""
        yield self.resnets[0]
        for attention, resnet in zip(self.attentions, self.resnets[1:], strict=False):
            yield from (attention, resnet)


class TemporalDecoder(nn.Module):
    """Decodes latents (B, F, h, w, C) to frames (B, F, H, W, 3) in [-1, 1], clip by clip."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]
        layers = config.layers_per_block
        self.conv_in = Conv(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = DecoderMidBlock(channels[0], layers)
        self.up_blocks = nn.ModuleList(
            DecoderBlock(channels[max(i - 1, 0)], c, layers + 1, i < len(channels) - 1)
            for i, c in enumerate(channels)
        )
        self.conv_norm_out = GroupNorm(channels[-1], eps=1e-6)
        self.conv_out = Conv(channels[-1], config.out_channels, 3, padding=1)
        self.time_conv_out = TemporalConv(config.out_channels, config.out_channels)

    def layers(self) -> Iterator[nn.Module]:
        """All layers before the head, in order. Only SpatioTemporalResBlocks mix frames."""
        yield self.conv_in
        for block in (self.mid_block, *self.up_blocks):
            yield from block.layers()

    def head(self, x: Tensor) -> Tensor:
        """Turn features (..., H, W, C) into colours (..., H, W, 3), frame by frame."""
        return self.conv_out(over_pixels(self.conv_norm_out, x))

    def forward(self, z: Tensor) -> Tensor:
        x = z
        for layer in self.layers():
            x = layer(x)
        x = self.head(x)
        return self.time_conv_out(x.flatten(2, 3)).view_as(x)


class VAE(nn.Module):
    """`AutoencoderKLTemporalDecoder`, for inference on one device."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = TemporalDecoder(config)
        self.quant_conv = Conv(2 * config.latent_channels, 2 * config.latent_channels, 1)

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and log variance of the posterior of pictures (N, 3, H, W) in [-1, 1].

        Both are (N, C, h, w), unscaled.
        """
        moments = self.quant_conv(self.encoder(pictures.movedim(1, -1).contiguous()))
        mean, log_variance = moments.movedim(-1, 1).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Decode one clip's unscaled latents (F, C, h, w) to frames (F, 3, H, W) in [-1, 1]."""
        return (
            self.decoder(latents.movedim(1, -1)[None].contiguous())[0].movedim(-1, 1).contiguous()
        )
