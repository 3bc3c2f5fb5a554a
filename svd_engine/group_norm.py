"""Group norm of channels-last tensors, in two steps: sums by group, then one multiplication.

The sums are what slices of a clip, or processes that share it, exchange to be normalized as one
(see `exact`): the whole pass and the exact decode use the same functions. Triton's kernels compute
them on CUDA and plain torch elsewhere. PyTorch's own CUDA kernel gives one block of threads to each
(sample, group), which leaves most of a GPU idle where the samples are whole clips; its
channels-last kernel for CPUs is 1e-5 off.

Shapes: N samples, L positions, C channels, G groups.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.config import GROUPS

BLOCK = 2**19  # values that plain torch works on at a time: two megabytes in float32


@cache
def _triton() -> bool:
    return find_spec("triton") is not None


def on_kernels(x: Tensor) -> bool:
    """Whether Triton's kernels compute this: on CUDA, where nothing is to be differentiated."""
    return x.is_cuda and x.dtype != torch.float64 and not torch.is_grad_enabled() and _triton()


def group_sums(x: Tensor, shift: Tensor | None = None) -> Tensor:
    """How many values each group has, their sum, and that of their squares: (N, 3, G), float64.

    x: (N, L, C), contiguous. shift: (N or a divisor of it, C), which is added to x.
    What is added up is the difference to each channel's first value, so that it is small beside its
    spread; float64 is for the sums alone.
    """
    if on_kernels(x):
        from svd_engine import kernels

        return kernels.group_sums(x, GROUPS, shift)
    samples, length, channels = x.shape
    pivot = x[:, :1].detach().float()  # no result depends on it, so neither does a derivative
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
    """What normalizes: a factor and a summand for each channel, (2, N, C), float32."""
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
    """Multiply and add, in float32, and SiLU: (N, L, C). own: into x itself."""
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
    """Samples and positions of (N, L, C), in blocks that a processor's cache holds.

    Going several times through a whole tensor, and into new ones, would take longer than the
    arithmetic: memory is slow, and the operating system hands out new memory page by page. How a
    sample is divided depends on its own shape alone, so its sums do not depend on the batch.
    """
    samples, length, channels = x.shape
    # Each block's derivative would be as large as x; and the cache meant is a CPU's.
    if torch.is_grad_enabled() or not x.is_cpu:
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
    """The norm of (N, L, C), each sample over all its positions, and SiLU where asked for."""

    def __init__(self, channels: int, eps: float, silu: bool = True) -> None:
        super().__init__(GROUPS, channels, eps=eps)
        self.silu = silu

    def forward(self, x: Tensor, shift: Tensor | None = None, own: bool = False) -> Tensor:
        """shift: (N or a divisor of it, C), added to x before; it costs no pass over x.

        own: nobody else needs x, which may be overwritten: new memory is slow on a CPU.
        """
        sums = group_sums(x, shift)
        own = own and not torch.is_grad_enabled()
        return apply_factors(x, self.factors(sums, shift), self.silu, own)

    def of_joined(self, x: Tensor, more: Tensor) -> Tensor:
        """The norm of (N, L, C) and (N, L, D) as if joined along the channels, on kernels alone."""
        from svd_engine import kernels

        factors = self.factors(kernels.group_sums(x, GROUPS, None, more))
        y = x.new_empty(*x.shape[:-1], x.shape[-1] + more.shape[-1])
        return kernels.apply_factors(x, factors, self.silu, y, more)

    def factors(self, sums: Tensor, shift: Tensor | None = None) -> Tensor:
        """See `factors`, with this norm's weights."""
        return factors(sums, self.weight, self.bias, self.eps, shift)
