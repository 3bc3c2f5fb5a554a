"""Group norm of channels-last tensors, in two steps: sums by group, then one multiplication.

The sums are what slices of a clip, or processes that share it, exchange to be normalized as one
(see `exact`): the whole pass and the exact decode use the same functions. Triton's kernels compute
them on CUDA and plain torch elsewhere. PyTorch's own CUDA kernel gives one block of threads to each
(sample, group), which leaves most of a GPU idle where the samples are whole clips; its
channels-last kernel for CPUs is 1e-5 off.

Shapes: N samples, L positions, C channels, G groups.
"""

from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.config import GROUPS


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
    length = x.shape[1]
    pivot = x[:, :1].float()
    less = x.float() - pivot
    total, squares = less.sum(1).double(), less.square().sum(1).double()
    first = pivot[:, 0].double()
    if shift is not None:
        first = first + _of_samples(shift, len(x)).double()
    squares = squares + first * (2 * total + length * first)
    total = total + length * first
    of_groups = torch.stack([total, squares], 1).unflatten(-1, (GROUPS, -1)).sum(-1)
    return F.pad(of_groups, (0, 0, 1, 0), value=length * x.shape[2] // GROUPS)


def factors(
    sums: Tensor, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None = None
) -> Tensor:
    """What normalizes: a factor and a summand for each channel, (2, N, C), float32."""
    if on_kernels(weight):
        from svd_engine import kernels

        return kernels.factors(sums, weight, bias, eps, shift)
    count, total, squares = sums.unbind(1)
    mean = total / count
    spread = (squares / count - mean.square()).clamp_min(0) + eps
    each = len(weight) // GROUPS
    mean, scale = (s.repeat_interleave(each, 1) for s in (mean, spread.rsqrt()))
    if shift is not None:
        mean = mean - _of_samples(shift, len(mean)).double()
    scale = weight.double() * scale
    return torch.stack([scale, bias.double() - mean * scale]).float()


def apply_factors(x: Tensor, factors: Tensor, silu: bool) -> Tensor:
    """Multiply and add, in float32, and SiLU: (N, L, C)."""
    if on_kernels(x):
        from svd_engine import kernels

        return kernels.apply_factors(x, factors, silu)
    scale, added = factors[:, :, None]
    y = torch.addcmul(added, x.float(), scale)
    return (F.silu(y, inplace=True) if silu else y).to(x.dtype)


def _of_samples(shift: Tensor, samples: int) -> Tensor:
    return shift.repeat_interleave(samples // len(shift), 0)


class GroupNorm(nn.GroupNorm):
    """The norm of (N, L, C), each sample over all its positions, and SiLU where asked for."""

    def __init__(self, channels: int, eps: float, silu: bool = True) -> None:
        super().__init__(GROUPS, channels, eps=eps)
        self.silu = silu

    def forward(self, x: Tensor, shift: Tensor | None = None, more: Tensor | None = None) -> Tensor:
        """shift: (N or a divisor of it, C), added to x before; it costs no pass over x.

        more: (N, L, D), joined to x along the channels; on kernels alone.
        """
        if more is not None:
            from svd_engine import kernels

            sums = kernels.group_sums(x, GROUPS, shift, more)
            return kernels.apply_factors(x, self.factors(sums, shift), self.silu, more)
        sums = group_sums(x, shift)
        return apply_factors(x, self.factors(sums, shift), self.silu)

    def factors(self, sums: Tensor, shift: Tensor | None = None) -> Tensor:
        """See `factors`, with this norm's weights."""
        return factors(sums, self.weight, self.bias, self.eps, shift)
