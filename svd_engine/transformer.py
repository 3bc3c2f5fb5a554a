"""Attention, and the UNet's transformers over the pixels of a frame and along the frames.

Shapes: see `layers`. Tokens are (B, F, L, C), or N sequences of them (N, L, C). Module names are
the checkpoint's.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.group_norm import GroupNorm, on_kernels
from svd_engine.layers import Blend, Constants, TimestepEmbedding, over_pixels, sinusoid
from svd_engine.linear import Linear, feed_forward, on_onednn

MAX_ATTENTION_BATCH = 65_535  # the grid limit of CUDA's fused attention kernels


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention of N sequences, each over its own tokens. q, k, v: (N, L, C)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if len(q) <= MAX_ATTENTION_BATCH:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    parts = zip(*(x.split(MAX_ATTENTION_BATCH) for x in (q, k, v)), strict=True)
    mixed = torch.cat([F.scaled_dot_product_attention(*part) for part in parts])
    return mixed.transpose(1, 2).flatten(2)


def attend_frames(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention along the frames of each pixel. q, k, v: (B, F, L, C)."""
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
        self.to_q = Linear(channels, channels, bias=bias)
        self.to_k = Linear(channels, channels, bias=bias)
        self.to_v = Linear(channels, channels, bias=bias)
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    @property
    def out(self) -> Linear:
        """The output layer."""
        return cast("Linear", self.to_out[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(x))

    def without_bias(self, x: Tensor) -> Tensor:
        """`forward` without the bias of the output layer, which a later operation adds."""
        return self.out(self.mix(x), bias=False)

    def mix(self, x: Tensor) -> Tensor:
        """The attention, without the output layer."""
        return attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads)


class FrameSelfAttention(SelfAttention):
    """Multi-head attention along the frames of each pixel: (B, F, L, C)."""

    def mix(self, x: Tensor) -> Tensor:
        return attend_frames(self.to_q(x), self.to_k(x), self.to_v(x), self.heads)


class CrossAttention(nn.Module):
    """Attention to the picture's embedding, which is a single token: (B, D) -> (B, C).

    The softmax over one key is 1, so the result is the value, whatever the query. `to_q` and `to_k`
    are part of every checkpoint but have no effect.
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
    """A linear layer, one half of which is gated by the exact (erf) GELU of the other half."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(c_in, 2 * c_out)

    def forward(self, x: Tensor, mixer: Blend | None = None) -> Tensor:
        """mixer: also multiply by the temporal branch's share of this blend. Triton only."""
        weight, bias = self.proj.weight, self.proj.bias
        mix = None if mixer is None else mixer.mix_factor
        if on_kernels(x):
            from svd_engine import kernels

            if kernels.geglu_fits(x, weight):
                return kernels.geglu(x, weight, bias, mix)
        # Two products, because the halves of a single one would be strided.
        halves = zip(weight.chunk(2), bias.chunk(2), strict=True)
        value, gate = (F.linear(x, *half) for half in halves)
        if on_kernels(x):
            return kernels.gate_(value, gate, mix)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width, and a linear layer back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # In the checkpoint, index 1 is a dropout.
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels), nn.Identity(), Linear(4 * channels, channels)
        )

    @property
    def gate(self) -> GEGLU:
        """The first layer."""
        return cast("GEGLU", self.net[0])

    @property
    def out(self) -> Linear:
        """The last layer."""
        return cast("Linear", self.net[2])

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """onto: a tensor to add the result to."""
        if on_onednn(x):
            first, last = self.gate.proj, self.out
            return feed_forward(x, first.weight, first.bias, last.weight, last.bias, onto)
        return self.out(self.gate(x), onto=onto)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the channels of tokens: (B, F, L, C)."""

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """vector: (B or B*F, C), first added to all tokens of a clip or a frame."""
        if on_kernels(x):
            from svd_engine import kernels

            return kernels.layer_norm(x, None, vector, self)[1]
        return super().forward(x if vector is None else _add_vector(x, vector))

    def of_sum(self, x: Tensor, more: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of x, `more` (both (B, F, L, C)) and a vector (B or B*F, C); and its norm."""
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
    """The end of a block: the sum of x, the attention's result and a vector, plus its feed-forward.

    blend: the spatial branch, which the result is blended with.
    """
    norm, ff = block.norm3, block.ff
    spatial, mixer = blend or (None, None)
    if on_kernels(x):
        from svd_engine import kernels

        # The norm's kernel adds the last layer's bias to the sum; its product is added in place.
        mixed = None if spatial is None or mixer is None else (spatial, mixer.mix_factor)
        total, normed = kernels.layer_norm(x, attended, vector, norm, ff.out.bias, mixed)
        hidden = ff.gate(normed, mixer)
        total.flatten(0, -2).addmm_(hidden.flatten(0, -2), ff.out.weight.t())
        return total
    total, normed = norm.of_sum(x, attended, vector)
    total = ff(normed, onto=total)
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
        attended = self.attn1.without_bias(self.norm1(x).flatten(0, 1)).view_as(x)
        return _feed(self, x, attended, vector)


class TemporalTransformerBlock(nn.Module):
    """A `TransformerBlock` along each pixel's frames, after a feed-forward: (B, F, L, C)."""

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
        """The blend of x with the block's result.

        position: (B*F, C), the embedding of each frame's number, added to x.
        vector: (B, C), see `vector_of`.
        """
        h = self.ff_in(self.norm_in(x, position))
        total, normed = self.norm1.of_sum(x, h, position)
        return _feed(self, total, self.attn1.without_bias(normed), vector, (x, mixer))


def vector_of(block: TransformerBlock | TemporalTransformerBlock, context: Tensor) -> Tensor:
    """What a block adds to all tokens of a clip after its self-attention: (B, D) -> (B, C).

    It is the attention's output bias plus the result of the cross-attention.
    """
    return block.attn1.out.bias + block.attn2(context)


class SpatioTemporalTransformer(nn.Module):
    """Pairs of a spatial and a temporal transformer block, blended: (B, F, H, W, C)."""

    def __init__(self, channels: int, heads: int, layers: int, context: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6, silu=False)
        self.proj_in = Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context) for _ in range(layers)
        )
        self.temporal_transformer_blocks = nn.ModuleList(
            TemporalTransformerBlock(channels, heads, context) for _ in range(layers)
        )
        self.time_pos_embed = TimestepEmbedding(channels, 4 * channels, channels)
        self.time_mixer = Blend()
        self.proj_out = Linear(channels, channels)

    def positions(self, clips: int, frames: int) -> Tensor:
        """The embedding of each frame's number: (B*F, C)."""
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
        return self.proj_out(tokens, onto=x.flatten(2, 3)).view_as(x)
