"""Group norm of channels-last tensors in two steps: sums by group, then one scaling pass.

Slices of a clip, or processes that share one, exchange the sums in order to be normalized together
(see `exact`), so a whole forward pass and an exact decode use the same functions. They run as
Triton kernels on CUDA and in plain torch elsewhere. PyTorch's own CUDA kernel assigns one block of
threads to each (sample, group), which leaves most of a GPU idle if the samples are whole clips; its
channels-last kernel for CPUs is off by 1e-5.

Shapes: N samples, L positions, C channels, G groups.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.config import GROUPS

BLOCK = 2**19  # values that plain torch processes at a time: two megabytes in float32


@cache
def _triton() -> bool:
    return find_spec("triton") is not None


def on_kernels(x: Tensor) -> bool:
    """Whether Triton kernels compute this: on CUDA, when no gradient is needed."""
    return x.is_cuda and x.dtype != torch.float64 and not torch.is_grad_enabled() and _triton()


def group_sums(x: Tensor, shift: Tensor | None = None) -> Tensor:
    """The count of each group's values, their sum and their squares' sum: (N, 3, G), float64.

    x: (N, L, C), contiguous. shift: (N or a divisor of it, C), added to x first.
    Differences to each channel's first value are summed rather than the values themselves, so that
    their mean is small compared with their spread. Only the sums are in float64.
    """
    if on_kernels(x):
        from svd_engine import kernels

        return kernels.group_sums(x, GROUPS, shift)
    samples, length, channels = x.shape
    pivot = x[:, :1].detach().float()  # the result does not depend on it, so it needs no gradient
    total, squares = (x.new_zeros(samples, channels, dtype=torch.float64) for _ in range(2))
    for here, rows in _blocks(x):
        less = x[here, rows].float() - pivot[here]
        total[here].add_(less.sum(1))
        squares[here].add_(less.square_().sum(1))
    first = pivot[:, 0].double()
    if shift is not None:
        first = first + _of_samples(shift, samples)
    squares = squares.addcmul(first, total, value=2).addcmul(first, first, value=length)
    of_channels = torch.stack([total.add(first, alpha=length), squares], 1)
    of_groups = of_channels.unflatten(-1, (GROUPS, -1)).sum(-1)
    return F.pad(of_groups, (0, 0, 1, 0), value=length * channels // GROUPS)


def factors(
    sums: Tensor, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None = None
) -> Tensor:
    """The factor and summand that normalize each channel: (2, N, C), float32."""
    if on_kernels(weight):
        from svd_engine import kernels

        return kernels.factors(sums, weight, bias, eps, shift)
    mean, square = (sums[:, 1:] / sums[:, :1]).unbind(1)
    variance = torch.addcmul(square, mean, mean, value=-1).clamp_min(0)
    of_groups = torch.stack([mean, (variance + eps).rsqrt()])
    mean, scale = of_groups[..., None].expand(-1, -1, -1, len(weight) // GROUPS).flatten(2)
    if shift is not None:
        mean = mean - _of_samples(shift, len(mean))
    scale = weight * scale
    return torch.stack([scale, bias - mean * scale]).float()


def apply_factors(x: Tensor, factors: Tensor, silu: bool, own: bool = False) -> Tensor:
    """Multiply and add in float32, then SiLU: (N, L, C). own: overwrite x with the result."""
    y = x if own else torch.empty_like(x)
    if on_kernels(x):
        from svd_engine import kernels

        return kernels.apply_factors(x, factors, silu, y)
    scale, added = factors[:, :, None]
    for here, rows in _blocks(x):
        block = torch.addcmul(added[here], x[here, rows].float(), scale[here])
        y[here, rows] = F.silu(block, inplace=True) if silu else block
    return y


def _blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """The samples and positions of (N, L, C) in blocks that fit a processor's cache.

    Several passes over a whole tensor, into newly allocated ones, would take longer than the
    arithmetic: memory is slow, and the operating system provides new memory page by page. The
    blocks of a sample depend on its own shape alone, so its sums do not depend on the batch.
    """
    samples, length, channels = x.shape
    # With gradients, each block's gradient would be as large as x. On a GPU, and on `meta`, blocks
    # gain nothing.
    if torch.is_grad_enabled() or x.is_meta or not x.is_cpu:
        yield slice(None), slice(None)
        return
    each = max(1, BLOCK // (length * channels))
    rows = max(1, BLOCK // channels)
    for first in range(0, samples, each):
        for row in range(0, length, rows):
            yield slice(first, first + each), slice(row, row + rows)


def _of_samples(shift: Tensor, samples: int) -> Tensor:
    return shift.repeat_interleave(samples // len(shift), 0)


class GroupNorm(nn.GroupNorm):
    """Group norm of (N, L, C) over all positions of each sample, optionally followed by SiLU."""

    def __init__(self, channels: int, eps: float, silu: bool = True) -> None:
        super().__init__(GROUPS, channels, eps=eps)
        self.silu = silu

    def forward(self, x: Tensor, shift: Tensor | None = None, own: bool = False) -> Tensor:
        """shift: (N or a divisor of it, C), added to x first, without a pass of its own over x.

        own: x may be overwritten, because nothing else needs it; new memory is slow on a CPU.
        """
        sums = group_sums(x, shift)
        own = own and not torch.is_grad_enabled()
        return apply_factors(x, self.factors(sums, shift), self.silu, own)

    def of_joined(self, x: Tensor, more: Tensor) -> Tensor:
        """The norm of (N, L, C) and (N, L, D), joined along the channels. Triton kernels only."""
        from svd_engine import kernels

        factors = self.factors(kernels.group_sums(x, GROUPS, None, more))
        y = x.new_empty(*x.shape[:-1], x.shape[-1] + more.shape[-1])
        return kernels.apply_factors(x, factors, self.silu, y, more)

    def factors(self, sums: Tensor, shift: Tensor | None = None) -> Tensor:
        """The function `factors`, with this norm's weights."""
        return factors(sums, self.weight, self.bias, self.eps, shift)
