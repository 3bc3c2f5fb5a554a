"""Layers shared by the UNet and the VAE.

Shapes: B clips, F frames, H x W pixels, C channels, L = H*W pixels in a row, D embedding width.
Channels come last, in shape and so in memory: frames are (B, F, H, W, C), or (N, H, W, C) where
nothing mixes them, and tokens (B, F, L, C) are a view of them. Module names are the checkpoint's.
"""

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.group_norm import GroupNorm, on_kernels

MAX_ATTENTION_BATCH = 65_535  # the grid limit of CUDA's fused attention kernels

# What layers add that the latents do not change, by the layer; see `UNet.constants`.
Constants = Mapping[nn.Module, Tensor]


def sinusoid(x: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding in float32, cosines first: (N,) -> (N, width). Period 10^4, shift 0."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=x.device) / half
    )
    angles = x.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Conv(nn.Conv2d):
    """A convolution over the pixels of frames: (..., H, W, C)."""

    def forward(self, x: Tensor, bias: bool = True, onto: Tensor | None = None) -> Tensor:
        """bias: False where what follows adds it. onto: what the result is added to."""
        if self.kernel_size == (1, 1):
            return F.linear(x, self.weight[:, :, 0, 0], self.bias)
        kernels_add = onto is not None and on_kernels(x)
        added = self.bias if bias and not kernels_add else None
        frames = x.flatten(0, -4).permute(0, 3, 1, 2)
        y = F.conv2d(frames, self.weight, added, self.stride, self.padding).permute(0, 2, 3, 1)
        y = y.reshape(*x.shape[:-3], *y.shape[1:])
        if onto is None:
            return y
        if kernels_add:
            from svd_engine import kernels

            return kernels.add_(y, onto, _bias(self)[None])
        return y.add_(onto)

    def of_doubled(self, x: Tensor) -> Tensor:
        """Enlarge to twice the size by nearest neighbour, then convolve: (..., h, w, C).

        Both at once, on the small frames, as a transposed convolution of stride 2: an even row of
        the result sees the row above once and its own twice, an odd row its own twice and the row
        below once. So each value takes 2 x 2 products in place of 3 x 3.
        """
        frames = x.flatten(0, -4).permute(0, 3, 1, 2)
        weight = _doubled(_doubled(self.weight, 2), 3).transpose(0, 1)
        large = F.conv_transpose2d(frames, weight, self.bias, stride=2, padding=1)
        return large.permute(0, 2, 3, 1).reshape(*x.shape[:-3], *large.shape[2:], len(self.weight))


def _bias(conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    assert conv.bias is not None  # every convolution of SVD has one
    return conv.bias


def _doubled(weight: Tensor, dim: int) -> Tensor:
    """Filters of 3 along a dimension, as those of 4 of a transposed convolution of stride 2."""
    first, middle, last = weight.split(1, dim)
    return torch.cat([last, middle + last, first + middle, first], dim)


def enlarge(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Nearest neighbour to `size` (H, W): (..., h, w, C) -> (..., H, W, C)."""
    frames = x.flatten(0, -4).permute(0, 3, 1, 2)
    large = F.interpolate(frames, size=size, mode="nearest").permute(0, 2, 3, 1)
    return large.reshape(*x.shape[:-3], *large.shape[1:])


class TemporalConv(nn.Conv3d):
    """The checkpoint's (3, 1, 1) Conv3d, run along the frames of each pixel: (B, F, L, C).

    Not by the Conv3d kernels, which go wrong past 2^31 elements (pytorch 117736, 141831), but by a
    Conv2d over (frames, pixels), or by a kernel of our own: cuDNN runs these at half the speed.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, kernel_size=(3, 1, 1), padding=(1, 0, 0))

    def forward(
        self,
        x: Tensor,
        bias: bool = True,
        before: Tensor | None = None,
        after: Tensor | None = None,
        blend: "tuple[Tensor, Blend] | None" = None,
    ) -> Tensor:
        """bias: False where what follows adds it.

        before, after: (B, 1, L, C), the frames beside these; without them, zeros.
        blend: the spatial branch, to which the result is added as the temporal branch's residual.
        """
        added = self.bias if bias else None
        if on_products(x):
            from svd_engine import kernels

            weight = self.weight.squeeze((-1, -2)).transpose(1, 2).contiguous()
            onto, mix, switched = None, None, False
            if blend is not None:
                onto, mix, switched = blend[0], blend[1].mix_factor, blend[1].switched
            return kernels.convolve_frames(x, weight, added, before, after, onto, mix, switched)
        alone = before is None and after is None
        if not alone and x.shape[1] == 1 and x.dtype == torch.float32 and not x.is_cuda:
            y = self._by_products(x, added, before, after)
            return y if blend is None else blend[1].add(blend[0], y)
        if not alone:
            nothing = torch.zeros_like(x[:, :1])
            beside = (nothing if frame is None else frame for frame in (before, after))
            x = torch.cat([next(beside), x, next(beside)], dim=1)
        padding = (1, 0) if alone else (0, 0)
        clips = x.permute(0, 3, 1, 2)
        y = F.conv2d(clips, self.weight.squeeze(-1), added, padding=padding).permute(0, 2, 3, 1)
        return y if blend is None else blend[1].add(blend[0], y)

    def _by_products(
        self, x: Tensor, bias: Tensor | None, before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        """Of one frame, without a copy of the three."""
        earlier, here, later = self.weight[..., 0, 0].unbind(-1)
        y = F.linear(x, here, bias)
        for frame, taps in ((before, earlier), (after, later)):
            if frame is not None:
                y.flatten(0, -2).addmm_(frame.flatten(0, -2), taps.t())
        return y


def on_products(x: Tensor) -> bool:
    """Whether Triton's matrix products compute this: where tensor cores do, in half precision."""
    return x.dtype in (torch.float16, torch.bfloat16) and on_kernels(x)


class TimestepEmbedding(nn.Module):
    """Two linear layers over a sinusoid."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, hidden)
        self.linear_2 = nn.Linear(hidden, out or hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class Blend(nn.Module):
    """Learned mix of the spatial and the temporal branch: a*spatial + (1-a)*temporal.

    The VAE's decoder is `switched`: (1-a)*spatial + a*temporal.
    """

    def __init__(self, switched: bool = False) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.tensor([0.0 if switched else 0.5]))
        self.switched = switched

    def of_temporal(self) -> Tensor:
        """What the temporal branch is multiplied by: (1)."""
        return torch.sigmoid(self.mix_factor if self.switched else -self.mix_factor)

    def add(self, spatial: Tensor, residual: Tensor) -> Tensor:
        """The blend with a temporal branch that adds `residual` to the spatial one."""
        return torch.addcmul(spatial, residual, self.of_temporal())


class ResBlock(nn.Module):
    """Twice GroupNorm, SiLU, convolution, over the pixels of each frame: (..., H, W, C)."""

    def __init__(self, c_in: int, c_out: int, eps: float, embedding: int | None = None) -> None:
        super().__init__()
        self.norm1 = GroupNorm(c_in, eps)
        self.conv1 = Conv(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, c_out) if embedding else None
        self.norm2 = GroupNorm(c_out, eps)
        self.conv2 = Conv(c_out, c_out, 3, padding=1)
        self.conv_shortcut = Conv(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, shift: Tensor | None = None, more: Tensor | None = None) -> Tensor:
        """shift: (B, C), see `shift_of`; None is that of a block which is told of no noise.

        more: (..., H, W, D), joined to x along the channels.
        """
        if more is not None and not on_kernels(x):
            x, more = torch.cat([x, more], dim=-1), None
        normed = over_pixels(self.norm1, x) if more is None else _over_joined(self.norm1, x, more)
        h = self.conv1(normed, bias=False)
        skip = self._shortcut(x, more)
        shift = shift_of(self) if shift is None else shift
        return self.conv2(over_pixels(self.norm2, h, shift, own=True), onto=skip)

    def _shortcut(self, x: Tensor, more: Tensor | None) -> Tensor:
        if self.conv_shortcut is None:
            return x
        if more is None:
            return self.conv_shortcut(x)
        weight = self.conv_shortcut.weight[:, :, 0, 0]
        of_x, of_more = weight.split((x.shape[-1], more.shape[-1]), dim=1)
        y = F.linear(x, of_x, self.conv_shortcut.bias)
        y.flatten(0, -2).addmm_(more.flatten(0, -2), of_more.t())
        return y


class TemporalResBlock(nn.Module):
    """The same over the frames of each clip: (B, F, L, C). The norms see every frame and pixel."""

    def __init__(self, channels: int, eps: float, embedding: int | None = None) -> None:
        super().__init__()
        self.norm1 = GroupNorm(channels, eps)
        self.conv1 = TemporalConv(channels, channels)
        self.time_emb_proj = nn.Linear(embedding, channels) if embedding else None
        self.norm2 = GroupNorm(channels, eps)
        self.conv2 = TemporalConv(channels, channels)

    def forward(self, x: Tensor, mixer: Blend, shift: Tensor | None = None) -> Tensor:
        """The blend of x with what the block makes of it. shift: as in `ResBlock`."""
        h = self.conv1(self.norm1(x.flatten(1, 2)).view_as(x), bias=False)
        shift = shift_of(self) if shift is None else shift
        h = self.norm2(h.flatten(1, 2), shift, own=True).view_as(h)
        return self.conv2(h, blend=(x, mixer))


def over_pixels(
    norm: GroupNorm, x: Tensor, shift: Tensor | None = None, own: bool = False
) -> Tensor:
    """A group norm of each frame by itself: (..., H, W, C). shift, own: as in `GroupNorm`."""
    return norm(x.flatten(0, -4).flatten(1, 2), shift, own).view_as(x)


def _over_joined(norm: GroupNorm, x: Tensor, more: Tensor) -> Tensor:
    """The same of (..., H, W, C) and (..., H, W, D), joined along the channels."""
    pixels = (part.flatten(0, -4).flatten(1, 2) for part in (x, more))
    return norm.of_joined(*pixels).view(*x.shape[:-1], -1)


def shift_of(block: ResBlock | TemporalResBlock, embedding: Tensor | None = None) -> Tensor:
    """What comes between a block's first convolution and its second norm: (..., C), or (1, C).

    The convolution's bias, and what the block is told of the noise level: (..., D), after SiLU.
    """
    bias = _bias(block.conv1)
    if block.time_emb_proj is None or embedding is None:
        return bias[None]
    return bias + block.time_emb_proj(embedding)


class SpatioTemporalResBlock(nn.Module):
    """A spatial block, a temporal block on its result, and their blend: (B, F, H, W, C)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        eps: float,
        temporal_eps: float,
        embedding: int | None = None,
        switched: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_res_block = ResBlock(c_in, c_out, eps, embedding)
        self.temporal_res_block = TemporalResBlock(c_out, temporal_eps, embedding)
        self.time_mixer = Blend(switched)

    def forward(
        self, x: Tensor, constants: Constants | None = None, more: Tensor | None = None
    ) -> Tensor:
        """more: (B, F, H, W, D), joined to x along the channels."""
        shifts = constants or {}
        spatial = self.spatial_res_block(x, shifts.get(self.spatial_res_block), more)
        tokens, shift = spatial.flatten(2, 3), shifts.get(self.temporal_res_block)
        return self.temporal_res_block(tokens, self.time_mixer, shift).view_as(spatial)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention of N sequences, each over its own tokens: (N, L, C) three times."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if len(q) <= MAX_ATTENTION_BATCH:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    parts = zip(*(x.split(MAX_ATTENTION_BATCH) for x in (q, k, v)), strict=True)
    mixed = torch.cat([F.scaled_dot_product_attention(*part) for part in parts])
    return mixed.transpose(1, 2).flatten(2)


def attend_frames(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention along the frames of each pixel: (B, F, L, C) three times."""
    if on_kernels(q):
        from svd_engine import kernels

        if q.shape[1] <= kernels.MAX_FRAMES:
            return kernels.attend_frames(q, k, v, heads)
    clips = len(q)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    mixed = attend(q, k, v, heads).unflatten(0, (clips, -1))
    return mixed.transpose(1, 2).contiguous()


class SelfAttention(nn.Module):
    """Multi-head attention of N sequences, each over its own L tokens: (N, L, C)."""

    def __init__(self, channels: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(channels, channels, bias=bias)
        self.to_v = nn.Linear(channels, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    @property
    def out(self) -> nn.Linear:
        """The output layer."""
        return cast("nn.Linear", self.to_out[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(x))

    def but_bias(self, x: Tensor) -> Tensor:
        """`forward` without the output's bias, which what follows adds."""
        return F.linear(self.mix(x), self.out.weight)

    def mix(self, x: Tensor) -> Tensor:
        """The attention before its output layer."""
        return attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads)


class FrameSelfAttention(SelfAttention):
    """Multi-head attention along the frames of each pixel: (B, F, L, C)."""

    def mix(self, x: Tensor) -> Tensor:
        return attend_frames(self.to_q(x), self.to_k(x), self.to_v(x), self.heads)


class CrossAttention(nn.Module):
    """Attention to the picture's embedding, which is a single token: (B, D) -> (B, C).

    The softmax over one key is 1, so the result is the value, whatever asks. `to_q` and `to_k`
    are in every checkpoint and have no effect.
    """

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, context: Tensor) -> Tensor:
        return self.to_out[0](self.to_v(context))


class GEGLU(nn.Module):
    """A linear layer, half of it gated by the exact (erf) GELU of the other half."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(c_in, 2 * c_out)

    def forward(self, x: Tensor, mixer: Blend | None = None) -> Tensor:
        """mixer: the temporal branch's share of this blend multiplies the result, on kernels."""
        weight, bias = self.proj.weight, self.proj.bias
        mix = None if mixer is None else mixer.mix_factor
        if on_kernels(x):
            from svd_engine import kernels

            if kernels.geglu_fits(x, weight):
                return kernels.geglu(x, weight, bias, mix)
        # Two products in place of one: halves of one tensor would be strided.
        halves = zip(weight.chunk(2), bias.chunk(2), strict=True)
        value, gate = (F.linear(x, *half) for half in halves)
        if on_kernels(x):
            return kernels.gate_(value, gate, mix)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The checkpoint counts a dropout at 1.
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)
        )

    @property
    def gate(self) -> GEGLU:
        """The first layer."""
        return cast("GEGLU", self.net[0])

    @property
    def out(self) -> nn.Linear:
        """The last layer."""
        return cast("nn.Linear", self.net[2])

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gate(x))


class LayerNorm(nn.LayerNorm):
    """Over the channels of tokens: (B, F, L, C)."""

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """vector: (B or B*F, C), added to the tokens of a clip or a frame before."""
        if on_kernels(x):
            from svd_engine import kernels

            return kernels.layer_norm(x, None, vector, self)[1]
        return super().forward(x if vector is None else _add_vector(x, vector))

    def of_sum(self, x: Tensor, more: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of tokens (B, F, L, C), others, and a vector (B or B*F, C); and its norm."""
        if on_kernels(x):
            from svd_engine import kernels

            return kernels.layer_norm(x, more, vector, self)
        total = _add_vector(x + more, vector)
        return total, super().forward(total)


def _add_vector(x: Tensor, vector: Tensor) -> Tensor:
    return (x.view(len(vector), -1, x.shape[-1]) + vector[:, None]).view_as(x)


def _feed(
    block: "TransformerBlock | TemporalTransformerBlock",
    x: Tensor,
    attended: Tensor,
    vector: Tensor,
    blend: tuple[Tensor, Blend] | None = None,
) -> Tensor:
    """The end of a block: x, what its attention gives and a vector; and their feed-forward.

    blend: the spatial branch, with which the sum of all is blended.
    """
    norm, ff = block.norm3, block.ff
    spatial, mixer = blend or (None, None)
    if on_kernels(x):
        from svd_engine import kernels

        # The last product adds to the sum in place, and the norm leaves its bias there before.
        mixed = None if spatial is None or mixer is None else (spatial, mixer.mix_factor)
        total, normed = kernels.layer_norm(x, attended, vector, norm, ff.out.bias, mixed)
        hidden = ff.gate(normed, mixer)
        total.flatten(0, -2).addmm_(hidden.flatten(0, -2), ff.out.weight.t())
        return total
    total, normed = norm.of_sum(x, attended, vector)
    total = ff(normed).add_(total)
    if spatial is None or mixer is None:
        return total
    return torch.lerp(spatial, total, mixer.of_temporal())


class TransformerBlock(nn.Module):
    """Self-attention over the pixels of each frame, cross-attention, feed-forward: (B, F, L, C)."""

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.norm2 = LayerNorm(channels)  # feeds attn2's query, which has no effect
        self.attn2 = CrossAttention(channels, context)
        self.norm3 = LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """vector: (B, C), see `vector_of`."""
        attended = self.attn1.but_bias(self.norm1(x).flatten(0, 1)).view_as(x)
        return _feed(self, x, attended, vector)


class TemporalTransformerBlock(nn.Module):
    """The same along the frames of each pixel, after a feed-forward of its own: (B, F, L, C)."""

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm_in = LayerNorm(channels)
        self.ff_in = FeedForward(channels)
        self.norm1 = LayerNorm(channels)
        self.attn1 = FrameSelfAttention(channels, heads)
        self.norm2 = LayerNorm(channels)  # feeds attn2's query, which has no effect
        self.attn2 = CrossAttention(channels, context)
        self.norm3 = LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, mixer: Blend, position: Tensor, vector: Tensor) -> Tensor:
        """The blend of x with what the block makes of it.

        position: (B*F, C), of each frame, added to x. vector: (B, C), see `vector_of`.
        """
        h = self.ff_in(self.norm_in(x, position))
        total, normed = self.norm1.of_sum(x, h, position)
        return _feed(self, total, self.attn1.but_bias(normed), vector, (x, mixer))


def vector_of(block: TransformerBlock | TemporalTransformerBlock, context: Tensor) -> Tensor:
    """What a block adds after its self-attention, to all tokens of a clip: (B, D) -> (B, C).

    The attention's output bias, and the whole of the cross-attention.
    """
    return block.attn1.out.bias + block.attn2(context)


class SpatioTemporalTransformer(nn.Module):
    """Pairs of a spatial and a temporal transformer block, blended: (B, F, H, W, C)."""

    def __init__(self, channels: int, heads: int, layers: int, context: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6, silu=False)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context) for _ in range(layers)
        )
        self.temporal_transformer_blocks = nn.ModuleList(
            TemporalTransformerBlock(channels, heads, context) for _ in range(layers)
        )
        self.time_pos_embed = TimestepEmbedding(channels, 4 * channels, channels)
        self.time_mixer = Blend()
        self.proj_out = nn.Linear(channels, channels)

    def positions(self, clips: int, frames: int) -> Tensor:
        """What each frame is told of its number: (B*F, C)."""
        weight = self.proj_in.weight
        numbers = torch.arange(frames, device=weight.device)
        embedded = sinusoid(numbers, weight.shape[0]).to(weight.dtype)
        return self.time_pos_embed(embedded).repeat(clips, 1)

    def forward(self, x: Tensor, constants: Constants) -> Tensor:
        tokens = self.proj_in(over_pixels(self.norm, x).flatten(2, 3))
        blocks = zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        for spatial_block, temporal_block in blocks:
            tokens = spatial_block(tokens, constants[spatial_block])
            vector = constants[temporal_block]
            tokens = temporal_block(tokens, self.time_mixer, constants[self], vector)
        if on_kernels(x):
            from svd_engine import kernels

            y = F.linear(tokens, self.proj_out.weight).view_as(x)
            return kernels.add_(y, x, self.proj_out.bias[None])
        return self.proj_out(tokens).view_as(x).add_(x)
