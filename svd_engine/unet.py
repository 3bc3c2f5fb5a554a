"""The spatio-temporal UNet, which predicts v from noisy latents and the picture.

Shapes: B clips, F frames, C channels, h x w latent pixels, D embedding width. Inside, frames are
(B, F, h, w, C); see `layers`. Module names are those of `UNetSpatioTemporalConditionModel`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.config import UNetConfig
from svd_engine.group_norm import GroupNorm
from svd_engine.layers import (
    Constants,
    Conv,
    ResBlock,
    SpatioTemporalResBlock,
    TemporalResBlock,
    TimestepEmbedding,
    enlarge,
    over_pixels,
    shift_of,
    sinusoid,
)
from svd_engine.transformer import (
    SpatioTemporalTransformer,
    TemporalTransformerBlock,
    TransformerBlock,
    vector_of,
)


class Downsample(nn.Module):
    """A strided convolution to half the size (rounded up)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest neighbour to the size of the next skip, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:  # (h, w)
        if size == (2 * x.shape[-3], 2 * x.shape[-2]):
            return self.conv.of_doubled(x)
        return self.conv(enlarge(x, size))


class DownBlock(nn.Module):
    """Residual blocks, each with a transformer if the level has them, then half the size."""

    def __init__(
        self, c_in: int, c_out: int, embedding: int, resnets: int, attentions: nn.ModuleList | None
    ) -> None:
        super().__init__()
        eps = 1e-5 if attentions is None else 1e-6  # as the weights were trained
        self.resnets = nn.ModuleList(
            SpatioTemporalResBlock(c_in if i == 0 else c_out, c_out, eps, eps, embedding)
            for i in range(resnets)
        )
        self.attentions = attentions
        self.downsamplers: nn.ModuleList | None = None

    def forward(self, x: Tensor, constants: Constants) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, constants)
            if self.attentions is not None:
                x = self.attentions[i](x, constants)
            skips.append(x)
        for downsample in self.downsamplers or ():
            x = downsample(x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """A transformer between two residual blocks."""

    def __init__(self, channels: int, embedding: int, attentions: nn.ModuleList) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            SpatioTemporalResBlock(channels, channels, 1e-5, 1e-5, embedding) for _ in range(2)
        )
        self.attentions = attentions

    def forward(self, x: Tensor, constants: Constants) -> Tensor:
        x = self.resnets[0](x, constants)
        x = self.attentions[0](x, constants)
        return self.resnets[1](x, constants)


class UpBlock(nn.Module):
    """Residual blocks, each of which joins one skip, then an enlargement to the next skip's size.

    It runs as many layers as it gets skips: the last block's last layer is left to `UNet.shallow`.
    """

    def __init__(
        self, c_ins: list[int], c_out: int, embedding: int, attentions: nn.ModuleList | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            SpatioTemporalResBlock(c_in, c_out, 1e-6, 1e-6, embedding) for c_in in c_ins
        )
        self.attentions = attentions
        self.upsamplers: nn.ModuleList | None = None

    def forward(self, x: Tensor, skips: list[Tensor], constants: Constants) -> Tensor:
        for i in range(min(len(self.resnets), len(skips))):
            x = self.layer(i, x, skips.pop(), constants)
        for upsample in self.upsamplers or ():
            x = upsample(x, skips[-1].shape[-3:-1])
        return x

    def layer(self, i: int, x: Tensor, skip: Tensor, constants: Constants) -> Tensor:
        x = self.resnets[i](x, constants, more=skip)
        return x if self.attentions is None else self.attentions[i](x, constants)


class UNet(nn.Module):
    """`UNetSpatioTemporalConditionModel`, for inference on one device."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.block_out_channels
        embedding = 4 * channels[0]
        self.conv_in = Conv(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], embedding)
        self.add_embedding = TimestepEmbedding(
            config.projection_class_embeddings_input_dim, embedding
        )
        self.down_blocks = self._down(config, embedding)
        mid_attentions = self._attentions(config, -1, 1)
        self.mid_block = MidBlock(channels[-1], embedding, mid_attentions)
        self.up_blocks = self._up(config, embedding)
        self.conv_norm_out = GroupNorm(channels[0], eps=1e-5)
        self.conv_out = Conv(channels[0], config.out_channels, 3, padding=1)

    @staticmethod
    def _attentions(config: UNetConfig, level: int, n: int) -> nn.ModuleList:
        channels = config.block_out_channels[level]
        heads = config.per_block("num_attention_heads")[level]
        layers = config.per_block("transformer_layers_per_block")[level]
        context = config.per_block("cross_attention_dim")[level]
        return nn.ModuleList(
            SpatioTemporalTransformer(channels, heads, layers, context) for _ in range(n)
        )

    @classmethod
    def _down(cls, config: UNetConfig, embedding: int) -> nn.ModuleList:
        channels, layers = config.block_out_channels, config.per_block("layers_per_block")
        blocks = nn.ModuleList()
        for level, kind in enumerate(config.down_block_types):
            n = layers[level]
            attentions = cls._attentions(config, level, n) if kind.startswith("Cross") else None
            c_in, c_out = channels[max(level - 1, 0)], channels[level]
            block = DownBlock(c_in, c_out, embedding, n, attentions)
            if level < len(channels) - 1:
                block.downsamplers = nn.ModuleList([Downsample(c_out)])
            blocks.append(block)
        return blocks

    @classmethod
    def _up(cls, config: UNetConfig, embedding: int) -> nn.ModuleList:
        """The down blocks mirrored. Each block takes one skip more than its level has layers."""
        channels, layers = config.block_out_channels, config.per_block("layers_per_block")
        top = len(channels) - 1
        blocks = nn.ModuleList()
        for i, kind in enumerate(config.up_block_types):
            level, n = top - i, layers[top - i] + 1
            attentions = cls._attentions(config, level, n) if kind.startswith("Cross") else None
            c_out, below = channels[level], channels[max(level - 1, 0)]
            previous = [channels[min(level + 1, top)]] + [c_out] * (n - 1)
            skips = [c_out] * (n - 1) + [below]
            c_ins = [a + b for a, b in zip(previous, skips, strict=True)]
            block = UpBlock(c_ins, c_out, embedding, attentions)
            if level > 0:
                block.upsamplers = nn.ModuleList([Upsample(c_out)])
            blocks.append(block)
        return blocks

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    def forward(
        self, sample: Tensor, timestep: Tensor, context: Tensor, time_ids: Tensor
    ) -> Tensor:
        """The v (B, F, C, h, w) predicted at one step.

        sample: (B, F, 2C, h, w): along the channels, scaled noise latents, then image latents.
        timestep: 0.25 * ln(sigma), float32, a scalar tensor.
        context: (B, 1, D), the picture's embedding. time_ids: (B, 3).
        """
        timesteps = timestep.expand(len(sample))[None]
        return self.predict(
            sample, self.constants(timesteps, context, time_ids, sample.shape[1])[0]
        )

    def constants(
        self, timesteps: Tensor, context: Tensor, time_ids: Tensor, frames: int
    ) -> list[Constants]:
        """What the layers add at each step that does not depend on the latents, for `predict`.

        timesteps: (S, B). The other arguments are those of `forward`. All steps are computed at
        once.
        """
        embedding = F.silu(self._embed(timesteps, time_ids))
        of_clip: dict[nn.Module, Tensor] = {}
        of_steps: dict[nn.Module, Tensor] = {}
        for module in self.modules():
            if isinstance(module, ResBlock | TemporalResBlock):
                of_steps[module] = shift_of(module, embedding)
            elif isinstance(module, TransformerBlock | TemporalTransformerBlock):
                of_clip[module] = vector_of(module, context[:, 0])
            elif isinstance(module, SpatioTemporalTransformer):
                of_clip[module] = module.positions(len(context), frames)
        return [
            of_clip | {module: shifts[step] for module, shifts in of_steps.items()}
            for step in range(len(timesteps))
        ]

    def predict(self, sample: Tensor, constants: Constants) -> Tensor:
        """`forward`, with everything that does not depend on the sample computed beforehand."""
        x = self.enter(sample)
        return self.shallow(x, self.deep(x, constants), constants)

    def enter(self, sample: Tensor) -> Tensor:
        """The UNet's first features (B, F, h, w, C)."""
        return self.conv_in(sample.movedim(2, -1).contiguous())

    def deep(self, x: Tensor, constants: Constants) -> Tensor:
        """The input of the last layer, computed by all others: nine tenths of the work."""
        skips: list[Tensor] = []
        for down in self.down_blocks:
            x, more = down(x, constants)
            skips += more
        x = self.mid_block(x, constants)
        for up in self.up_blocks:
            x = up(x, skips, constants)
        return x

    def shallow(self, x: Tensor, deep: Tensor, constants: Constants) -> Tensor:
        """The v of `forward`, by the last layer, from the UNet's first and its deep features."""
        last = self.up_blocks[-1]
        assert isinstance(last, UpBlock)
        x = last.layer(-1, deep, x, constants)
        return self.conv_out(over_pixels(self.conv_norm_out, x)).movedim(-1, 2)

    def _embed(self, timesteps: Tensor, time_ids: Tensor) -> Tensor:
        """(S, B) and (B, 3) -> (S, B, 4 * channels)."""
        time = sinusoid(timesteps.flatten(), self.config.block_out_channels[0])
        time = time.unflatten(0, timesteps.shape)
        added = sinusoid(time_ids.flatten(), self.config.addition_time_embed_dim)
        added = added.reshape(len(time_ids), -1)
        return self.time_embedding(time.to(self.dtype)) + self.add_embedding(added.to(self.dtype))
