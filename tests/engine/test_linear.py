"""Linear layers by oneDNN, against plain torch in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svd_engine.linear import BLOCK, TYPES, Linear, on_onednn
from svd_engine.transformer import FeedForward

EPSILON = {torch.float32: 2e-6, torch.bfloat16: 1.5e-2}
types = pytest.mark.parametrize("dtype", sorted(TYPES, key=str), ids=str)


def exactly(ff: FeedForward, x: Tensor) -> Tensor:
    """A feed-forward in float64, one operation after the other."""
    proj, out = ff.gate.proj.double(), ff.out.double()
    value, gate = F.linear(x.double(), proj.weight, proj.bias).chunk(2, -1)
    return F.linear(value * F.gelu(gate), out.weight, out.bias)


def close(got: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    assert (got - exact).abs().max() <= EPSILON[dtype] * exact.abs().max()


@types
@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 2, st.integers(1, 40)),
    channels=st.integers(1, 70),
    summed=st.booleans(),
)
@torch.no_grad()
def test_a_feed_forward(
    dtype: torch.dtype, shape: tuple[int, ...], channels: int, summed: bool
) -> None:
    torch.manual_seed(channels)
    ff = FeedForward(channels).to(dtype)
    x, more = (torch.randn(*shape, channels).to(dtype) for _ in range(2))
    assert on_onednn(x)
    before = more.clone()
    got = ff(x, onto=more) if summed else ff(x)
    close(got, exactly(ff, x) + (before.double() if summed else 0), dtype)


@torch.no_grad()
def test_a_token_does_not_depend_on_the_others() -> None:
    """Blocks of tokens are not seen in the result, nor is the size of the batch."""
    if torch.float32 not in TYPES:
        pytest.skip("oneDNN does not compute float32 products here")
    ff, rows = FeedForward(32), BLOCK // 128
    x = torch.randn(1, 1, 2 * rows + 5, 32)
    whole = ff(x)
    assert torch.equal(whole[:, :, :7], ff(x[:, :, :7].contiguous()))
    assert torch.equal(whole[:, :, rows - 3 :], ff(x[:, :, rows - 3 :].contiguous()))


@torch.no_grad()
def test_tokens_that_are_not_contiguous() -> None:
    ff = FeedForward(8)
    x = torch.randn(3, 8, 5).transpose(1, 2)
    got = ff(x)
    close(got, exactly(ff, x), torch.float32)


@types
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("summed", [True, False])
@torch.no_grad()
def test_a_linear_layer(dtype: torch.dtype, bias: bool, summed: bool) -> None:
    layer = Linear(31, 17).to(dtype)
    x, more = torch.randn(3, 5, 31).to(dtype), torch.randn(3, 5, 17).to(dtype)
    got = layer(x, bias, more if summed else None)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    close(got, exact + more.double() if summed else exact, dtype)


def test_gradients_reach_the_weights() -> None:
    """Training runs in plain torch."""
    ff = FeedForward(8)
    ff(torch.randn(2, 8)).sum().backward()
    assert all(p.grad is not None for p in ff.parameters())
