"""Linear layers of tokens, computed together with what follows them.

PyTorch multiplies matrices on a CPU with MKL, and runs the activation or the sum that follows as a
pass of its own. oneDNN, which `torch.compile` uses for the same purpose, computes both at once and
multiplies faster on processors with AVX-512. The operations are those of `torch.ops.mkldnn`.

Shapes: tokens (..., C).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.group_norm import on_kernels

BLOCK = 2**18  # hidden values of a feed-forward that are computed at a time: a megabyte in float32


def _types() -> frozenset[torch.dtype]:
    """The types whose products oneDNN computes here. It was tried on processors with AVX alone."""
    with_avx = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if not with_avx or not torch.backends.mkldnn.is_available():
        return frozenset()
    bfloat16 = [torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else []
    return frozenset([torch.float32, *bfloat16])


TYPES = _types()


def on_onednn(x: Tensor) -> bool:
    """Whether oneDNN computes this: on a CPU, when no gradient is needed."""
    return x.is_cpu and not torch.is_grad_enabled() and x.dtype in TYPES


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, after: str = "none") -> Tensor:
    """The linear layer of x, and its exact (erf) GELU if `after` is "gelu"."""
    algorithm = "none"  # of the GELU: not the approximation by tanh
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], algorithm)


def _product_with(
    x: Tensor, weight: Tensor, bias: Tensor | None, operation: str, other: Tensor
) -> Tensor:
    """The linear layer of x plus ("add") or times ("mul") another tensor."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, operation)


# `torch.compile` takes oneDNN's operations for those of its own passes, and fails. What it is to
# leave alone is an operation of ours.
@torch.library.custom_op("svd_engine::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer by oneDNN."""
    return _product(x, weight, bias)


@linear.register_fake
def _(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """A linear layer of tokens (..., C)."""

    def forward(self, x: Tensor, bias: bool = True, onto: Tensor | None = None) -> Tensor:
        """bias: False if a later operation adds it. onto: a tensor to add the result to."""
        added = self.bias if bias else None
        if onto is not None and on_kernels(x):
            from svd_engine import kernels

            return kernels.add_(F.linear(x, self.weight), onto, self.bias[None])
        product = linear if on_onednn(x) else F.linear
        y = product(x, self.weight, added)
        return y if onto is None else y.add_(onto)


@torch.library.custom_op("svd_engine::feed_forward", mutates_args=())
def feed_forward(
    x: Tensor,
    first: Tensor,
    first_bias: Tensor,
    last: Tensor,
    last_bias: Tensor,
    onto: Tensor | None = None,
) -> Tensor:
    """GEGLU and a linear layer by oneDNN: the values and gates of `first`, then `last`.

    onto: a tensor to add the result to. A block of tokens goes through all three products while its
    hidden values, of which each token has four times C, are in the processor's cache. The result of
    a token does not depend on the others.
    """
    (value, gate), (value_bias, gate_bias) = first.chunk(2), first_bias.chunk(2)
    y = x.new_empty(x.shape)  # `empty_like` would keep strides of which `flatten` makes a copy
    rows = max(1, BLOCK // len(value))
    parts = [t.flatten(0, -2).split(rows) for t in (x, y)]
    sums = [None] * len(parts[0]) if onto is None else onto.flatten(0, -2).split(rows)
    for tokens, result, added in zip(*parts, sums, strict=True):
        gates = _product(tokens, gate, gate_bias, "gelu")
        hidden = _product_with(tokens, value, value_bias, "mul", gates)
        if added is None:
            result.copy_(_product(hidden, last, last_bias))
        else:
            result.copy_(_product_with(hidden, last, last_bias, "add", added))
    return y


@feed_forward.register_fake
def _(x: Tensor, *_: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)
