"""Convolutions and residual blocks, which the UNet and the VAE share.

Shapes: B clips, F frames, H x W pixels, C channels, L = H*W pixels in a row, D embedding width.
Channels come last, in the shape and in memory. Frames are (B, F, H, W, C), or (N, H, W, C) in
layers that treat each frame by itself; tokens (B, F, L, C) are a view of them. Module names are the
checkpoint's.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.group_norm import GroupNorm, on_kernels

# By layer, what it adds that does not depend on the latents; see `UNet.constants`.
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
        """bias: False if a later operation adds it. onto: a tensor to add the result to."""
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

        Both happen at once, as a transposed convolution of stride 2 on the small frames. An even
        row of the result depends once on the row above and twice on its own row; an odd row depends
        twice on its own row and once on the row below. Each value takes 2 x 2 products instead of 3
        x 3.
        """
        frames = x.flatten(0, -4).permute(0, 3, 1, 2)
        weight = _doubled(_doubled(self.weight, 2), 3).transpose(0, 1)
        large = F.conv_transpose2d(frames, weight, self.bias, stride=2, padding=1)
        return large.permute(0, 2, 3, 1).reshape(*x.shape[:-3], *large.shape[2:], len(self.weight))


def _bias(conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    assert conv.bias is not None  # every convolution of SVD has a bias
    return conv.bias


def _doubled(weight: Tensor, dim: int) -> Tensor:
    """Filters of 3 along a dimension as filters of 4 of a transposed convolution, stride 2."""
    first, middle, last = weight.split(1, dim)
    return torch.cat([last, middle + last, first + middle, first], dim)


def enlarge(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Enlarge to `size` (H, W) by nearest neighbour: (..., h, w, C) -> (..., H, W, C)."""
    frames = x.flatten(0, -4).permute(0, 3, 1, 2)
    large = F.interpolate(frames, size=size, mode="nearest").permute(0, 2, 3, 1)
    return large.reshape(*x.shape[:-3], *large.shape[1:])


class TemporalConv(nn.Conv3d):
    """The checkpoint's (3, 1, 1) Conv3d, computed along the frames of each pixel: (B, F, L, C).

    It runs as a Conv2d over (frames, pixels), since Conv3d kernels give wrong results past 2^31
    elements (pytorch 117736, 141831), or as a Triton kernel, which is twice as fast as cuDNN.
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
        """bias: False if a later operation adds it.

        before, after: (B, 1, L, C), the frames beside these, instead of zeros.
        blend: the spatial branch, which the result is blended with as the temporal residual.
        """
        added = self.bias if bias else None
        if on_products(x):
            from svd_engine import kernels

            weight = self.weight.squeeze((-1, -2)).transpose(1, 2).contiguous()
            onto, mix, switched = None, None, False
            if blend is not None:
                onto, mix, switched = blend[0], blend[1].mix_factor, blend[1].switched
            return kernels.convolve_frames(x, weight, added, before, after, onto, mix, switched)
        y = self._by_torch(x, added, before, after)
        return y if blend is None else blend[1].add(blend[0], y)

    def _by_torch(
        self, x: Tensor, bias: Tensor | None, before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        alone = before is None and after is None
        if not alone and x.shape[1] == 1 and x.dtype == torch.float32 and not x.is_cuda:
            return self._by_products(x, bias, before, after)
        if not alone:
            nothing = torch.zeros_like(x[:, :1])
            beside = (nothing if frame is None else frame for frame in (before, after))
            x = torch.cat([next(beside), x, next(beside)], dim=1)
        padding = (1, 0) if alone else (0, 0)
        clips = x.permute(0, 3, 1, 2)
        return F.conv2d(clips, self.weight.squeeze(-1), bias, padding=padding).permute(0, 2, 3, 1)

    def _by_products(
        self, x: Tensor, bias: Tensor | None, before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        """Convolve one frame as three products, without copying it and its neighbours together."""
        earlier, here, later = self.weight[..., 0, 0].unbind(-1)
        y = F.linear(x, here, bias)
        for frame, taps in ((before, earlier), (after, later)):
            if frame is not None:
                y.flatten(0, -2).addmm_(frame.flatten(0, -2), taps.t())
        return y


def on_products(x: Tensor) -> bool:
    """Whether Triton's matrix products compute this: on tensor cores, in half precision."""
    return x.dtype in (torch.float16, torch.bfloat16) and on_kernels(x)


class TimestepEmbedding(nn.Module):
    """Two linear layers over a sinusoidal embedding."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, hidden)
        self.linear_2 = nn.Linear(hidden, out or hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class Blend(nn.Module):
    """A learned mix of the spatial and the temporal branch: a*spatial + (1-a)*temporal.

    In the VAE's decoder the two are `switched`: (1-a)*spatial + a*temporal.
    """

    def __init__(self, switched: bool = False) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.tensor([0.0 if switched else 0.5]))
        self.switched = switched

    def of_temporal(self) -> Tensor:
        """The factor of the temporal branch: (1)."""
        return torch.sigmoid(self.mix_factor if self.switched else -self.mix_factor)

    def add(self, spatial: Tensor, residual: Tensor) -> Tensor:
        """Blend with a temporal branch that is the spatial one plus `residual`."""
        return torch.addcmul(spatial, residual, self.of_temporal())


class ResBlock(nn.Module):
    """Two rounds of GroupNorm, SiLU and convolution over each frame's pixels: (..., H, W, C)."""

    def __init__(self, c_in: int, c_out: int, eps: float, embedding: int | None = None) -> None:
        super().__init__()
        self.norm1 = GroupNorm(c_in, eps)
        self.conv1 = Conv(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, c_out) if embedding else None
        self.norm2 = GroupNorm(c_out, eps)
        self.conv2 = Conv(c_out, c_out, 3, padding=1)
        self.conv_shortcut = Conv(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, shift: Tensor | None = None, more: Tensor | None = None) -> Tensor:
        """shift: (B, C), see `shift_of`; None for a block without an embedding of the noise level.

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
    """A `ResBlock` along the frames: (B, F, L, C). Its norms are over all frames and pixels."""

    def __init__(self, channels: int, eps: float, embedding: int | None = None) -> None:
        super().__init__()
        self.norm1 = GroupNorm(channels, eps)
        self.conv1 = TemporalConv(channels, channels)
        self.time_emb_proj = nn.Linear(embedding, channels) if embedding else None
        self.norm2 = GroupNorm(channels, eps)
        self.conv2 = TemporalConv(channels, channels)

    def forward(self, x: Tensor, mixer: Blend, shift: Tensor | None = None) -> Tensor:
        """The blend of x with the block's result. shift: see `ResBlock`."""
        h = self.conv1(self.norm1(x.flatten(1, 2)).view_as(x), bias=False)
        shift = shift_of(self) if shift is None else shift
        h = self.norm2(h.flatten(1, 2), shift, own=True).view_as(h)
        return self.conv2(h, blend=(x, mixer))


def over_pixels(
    norm: GroupNorm, x: Tensor, shift: Tensor | None = None, own: bool = False
) -> Tensor:
    """Group norm of each frame by itself: (..., H, W, C). shift, own: see `GroupNorm`."""
    return norm(x.flatten(0, -4).flatten(1, 2), shift, own).view_as(x)


def _over_joined(norm: GroupNorm, x: Tensor, more: Tensor) -> Tensor:
    """Group norm of each frame of (..., H, W, C) and (..., H, W, D), joined along the channels."""
    pixels = (part.flatten(0, -4).flatten(1, 2) for part in (x, more))
    return norm.of_joined(*pixels).view(*x.shape[:-1], -1)


def shift_of(block: ResBlock | TemporalResBlock, embedding: Tensor | None = None) -> Tensor:
    """What is added between a block's first convolution and its second norm: (..., C), or (1, C).

    It is the convolution's bias plus the projected embedding of the noise level (..., D), after
    SiLU.
    """
    bias = _bias(block.conv1)
    if block.time_emb_proj is None or embedding is None:
        return bias[None]
    return bias + block.time_emb_proj(embedding)


class SpatioTemporalResBlock(nn.Module):
    """A spatial block, a temporal block over its result, and their blend: (B, F, H, W, C)."""

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
