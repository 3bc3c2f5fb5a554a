"""The group norm's plain torch part, compared with torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svd_engine import group_norm
from svd_engine.config import GROUPS
from svd_engine.group_norm import GroupNorm, group_sums

SHAPES = [(3, 70, 96), (1, 1000, 32), (2, 513, 64), (5, 1, 128)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of large tensors: samples are divided, and blocks end unevenly."""
    monkeypatch.setattr(group_norm, "BLOCK", 20_000)


def drawn(*shape: int, mean: float = 0.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) + mean


def exact(norm: GroupNorm, x: Tensor, shift: Tensor | None) -> Tensor:
    x = x.double() if shift is None else x.double() + shift.double()[:, None]
    weight, bias = norm.weight.double(), norm.bias.double()
    y = F.group_norm(x.transpose(1, 2), GROUPS, weight, bias, norm.eps).transpose(1, 2)
    return F.silu(y) if norm.silu else y


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-8)])
def test_it_is_torchs_in_float64(
    shape: tuple[int, ...], silu: bool, dtype: torch.dtype, tolerance: float
) -> None:
    norm = GroupNorm(shape[-1], 1e-5, silu).requires_grad_(False).to(dtype)
    norm.weight.copy_(drawn(shape[-1]))
    norm.bias.copy_(drawn(shape[-1], mean=1))
    x = drawn(*shape, mean=3).to(dtype)
    for shift in (None, drawn(1, shape[-1]).to(dtype), drawn(shape[0], shape[-1]).to(dtype)):
        right = exact(norm, x, shift)
        for grad in (False, True):  # one goes by blocks, the other can be differentiated
            with torch.set_grad_enabled(grad):
                given = norm(x, shift)
            assert given.dtype == dtype
            assert (given - right).abs().max() <= tolerance * right.abs().max()


def test_its_gradient_is_torchs() -> None:
    norm = GroupNorm(64, 1e-5)
    x, shift = drawn(2, 513, 64).requires_grad_(), drawn(2, 64).requires_grad_()
    of = [x, shift, norm.weight, norm.bias]
    ours, right = (
        torch.autograd.grad(y.square().sum() + y.sum(), of)
        for y in (norm(x, shift), exact(norm, x, shift))
    )
    for own, other in zip(ours, right, strict=True):
        assert (own - other).abs().max() <= 5e-5 * other.abs().max()


@torch.no_grad()
def test_sums_do_not_depend_on_what_else_is_in_the_batch() -> None:
    x = drawn(6, 40, 96)
    alone = torch.cat([group_sums(sample[None]) for sample in x])
    assert torch.equal(group_sums(x), alone)
