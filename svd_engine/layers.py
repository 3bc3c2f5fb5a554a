"""Layers shared by the UNet and the VAE.

Shapes: B clips, F frames, C channels, H x W pixels, L = H*W pixels in a row, D embedding width.
Frames travel as (B*F, C, H, W). Temporal convolutions see a clip (B, C, F, L), transformers see
tokens (B, F, L, C). Module names are the checkpoint's. The memory layout is not forced: where
diffusers' activations are channels-last (the decoder, after its attention) so are these, because
on a CPU the two layouts' GroupNorm kernels differ by up to 1e-5 of the largest value.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.config import GROUPS

MAX_ATTENTION_BATCH = 65_535  # the grid limit of CUDA's fused attention kernels


def sinusoid(x: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding in float32, cosines first: (N,) -> (N, width). Period 10^4, shift 0."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=x.device) / half
    )
    angles = x.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def clip_view(x: Tensor, frames: int) -> Tensor:
    """Frames (B*F, C, H, W) as clips (B, C, F, L)."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(3)


def frame_view(x: Tensor, height: int, width: int) -> Tensor:
    """Clips (B, C, F, L) as frames (B*F, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1).unflatten(-1, (height, width))


class TemporalConv(nn.Conv3d):
    """The checkpoint's (3, 1, 1) Conv3d, run as a Conv2d over (frames, pixels).

    It avoids the Conv3d kernels, which go wrong past 2^31 elements (pytorch 117736, 141831), and is
    the faster of the two on a CPU.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, kernel_size=(3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, F, L)
        return F.conv2d(x, self.weight.squeeze(-1), self.bias, padding=(1, 0))


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

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        a = torch.sigmoid(self.mix_factor)
        if self.switched:
            return torch.lerp(spatial, temporal, a)
        return torch.lerp(temporal, spatial, a)


class ResBlock(nn.Module):
    """Twice GroupNorm, SiLU, convolution, over the pixels of each frame: (N, C, H, W)."""

    def __init__(self, c_in: int, c_out: int, eps: float, embedding: int | None = None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, c_in, eps=eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, c_out) if embedding else None
        self.norm2 = nn.GroupNorm(GROUPS, c_out, eps=eps)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:  # embedding (N, D)
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        if self.time_emb_proj is not None and embedding is not None:
            h = h + self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class TemporalResBlock(nn.Module):
    """The same over the frames of each clip: (B, C, F, L). The norms see every frame and pixel."""

    def __init__(self, channels: int, eps: float, embedding: int | None = None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels, eps=eps)
        self.conv1 = TemporalConv(channels, channels)
        self.time_emb_proj = nn.Linear(embedding, channels) if embedding else None
        self.norm2 = nn.GroupNorm(GROUPS, channels, eps=eps)
        self.conv2 = TemporalConv(channels, channels)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:  # embedding (B*F, D)
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        if self.time_emb_proj is not None and embedding is not None:
            shift = self.time_emb_proj(F.silu(embedding).unflatten(0, (len(x), -1)))
            h = h + shift.transpose(1, 2)[..., None]
        return x + self.conv2(F.silu(self.norm2(h), inplace=True))


class SpatioTemporalResBlock(nn.Module):
    """A spatial block, a temporal block on its result, and their blend."""

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

    def forward(self, x: Tensor, frames: int, embedding: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        spatial = clip_view(self.spatial_res_block(x, embedding), frames)
        mixed = self.time_mixer(spatial, self.temporal_res_block(spatial, embedding))
        return frame_view(mixed, height, width)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention: (N, heads, L, head width) three times -> (N, heads, L, head width)."""
    if len(q) <= MAX_ATTENTION_BATCH:
        return F.scaled_dot_product_attention(q, k, v)
    parts = zip(*(x.split(MAX_ATTENTION_BATCH) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts])


class SelfAttention(nn.Module):
    """Multi-head attention of N sequences, each over its own L tokens: (N, L, C)."""

    def __init__(self, channels: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(channels, channels, bias=bias)
        self.to_v = nn.Linear(channels, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention to the picture's embedding, which is a single token: (B, 1, D) -> (B, 1, C).

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

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The checkpoint counts a dropout at 1.
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention within each row of tokens, cross-attention, feed-forward: (B, F, L, C)."""

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)  # feeds attn2's query, which has no effect
        self.attn2 = CrossAttention(channels, context)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # context (B, 1, D)
        x = x + self.attn1(self.norm1(x).flatten(0, 1)).view_as(x)
        x = x + self.attn2(context)[:, None]
        return x + self.ff(self.norm3(x))


class TemporalTransformerBlock(TransformerBlock):
    """The same along the frames of each pixel, after a feed-forward of its own: (B, F, L, C)."""

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__(channels, heads, context)
        self.norm_in = nn.LayerNorm(channels)
        self.ff_in = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # context (B, 1, D)
        x = x.transpose(1, 2).contiguous()
        x = x + self.ff_in(self.norm_in(x))
        return super().forward(x, context).transpose(1, 2)


class SpatioTemporalTransformer(nn.Module):
    """Pairs of a spatial and a temporal transformer block, blended: (B*F, C, H, W)."""

    def __init__(self, channels: int, heads: int, layers: int, context: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, eps=1e-6)
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

    def forward(self, x: Tensor, frames: int, context: Tensor) -> Tensor:  # context (B, 1, D)
        n, c, h, w = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(n // frames, frames, h * w, c)
        tokens = self.proj_in(tokens)
        numbers = torch.arange(frames, device=x.device)
        position = self.time_pos_embed(sinusoid(numbers, c).to(x.dtype))[:, None]
        blocks = zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        for spatial_block, temporal_block in blocks:
            tokens = spatial_block(tokens, context)
            tokens = self.time_mixer(tokens, temporal_block(tokens + position, context))
        return x + self.proj_out(tokens).reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous()
