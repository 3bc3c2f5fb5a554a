"""Triton's kernels against torch in float64, for odd shapes: interpreted on a CPU, run on a GPU."""

import os
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svd_engine.config import GROUPS

kernels: ModuleType = pytest.importorskip("svd_engine.kernels", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of SiLU, on numpy
INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if (request.param == "cpu") is not INTERPRETED:
        pytest.skip("Triton's interpreter runs on the CPU, its compiler for the GPU")
    return torch.device(request.param)


class Draw:
    """Random tensors on a device, always the same."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._generator = device, torch.Generator("cpu").manual_seed(0)

    def __call__(self, *shape: int, mean: float = 0.0) -> Tensor:
        drawn = torch.randn(shape, generator=self._generator)
        return (drawn + mean).to(self._device)


def assert_close(given: Tensor, right: Tensor, tolerance: float = 1e-6) -> None:
    assert not given.isnan().any()
    distance = (given.double() - right).abs().max() / right.abs().max()
    assert distance < tolerance, distance.item()


@pytest.mark.parametrize(
    ("samples", "length", "channels", "shifts"),
    [(3, 70, 96, 3), (2, 1100, 320, 0), (4, 5, 64, 2), (1, 1, 2560, 1), (2, 513, 32, 1)],
)
@pytest.mark.parametrize("silu", [True, False])
def test_group_norm(
    device: torch.device, samples: int, length: int, channels: int, shifts: int, silu: bool
) -> None:
    draw = Draw(device)
    x, weight, bias = draw(samples, length, channels, mean=30), draw(channels), draw(channels)
    shift = draw(shifts, channels) if shifts else None
    sums = kernels.group_sums(x, GROUPS, shift)
    factors = kernels.factors(sums, weight, bias, 1e-5, shift)
    shifted = x.double()
    if shift is not None:
        shifted = shifted + shift.double().repeat_interleave(samples // shifts, 0)[:, None]
    grouped = shifted.unflatten(-1, (GROUPS, -1))
    right = torch.stack(
        [torch.ones_like(grouped).sum((1, 3)), grouped.sum((1, 3)), grouped.square().sum((1, 3))], 1
    )
    assert_close(sums, right)
    right = F.group_norm(shifted.transpose(1, 2), GROUPS, weight.double(), bias.double(), 1e-5)
    right = (F.silu(right) if silu else right).transpose(1, 2)
    # A factor times x and a summand, both about 30 times the result: so much of float32 is lost.
    assert_close(kernels.apply_factors(x, factors, silu), right, 1e-5)


@pytest.mark.parametrize(("rows", "channels"), [(36, 96), (7, 320), (300, 32)])
def test_layer_norm_of_a_sum(device: torch.device, rows: int, channels: int) -> None:
    draw = Draw(device)
    x, more, weight, bias = (
        draw(rows, channels),
        draw(rows, channels),
        draw(channels),
        draw(channels),
    )
    vector = draw(rows // 3 if rows % 3 == 0 else 1, channels)
    of_row = vector.double().repeat_interleave(rows // len(vector), 0)

    def norm(value: Tensor) -> Tensor:
        return F.layer_norm(value, (channels,), weight.double(), bias.double(), 1e-5)

    total, normed = kernels.layer_norm(x, more, vector, weight, bias, 1e-5)
    right = x.double() + more.double() + of_row
    assert_close(total, right)
    assert_close(normed, norm(right))
    assert_close(kernels.layer_norm(x, None, None, weight, bias, 1e-5)[1], norm(x.double()))
    assert_close(
        kernels.layer_norm(x, None, vector, weight, bias, 1e-5)[1], norm(x.double() + of_row)
    )
    assert_close(kernels.add_(x.clone(), more, vector), right)


def test_gate(device: torch.device) -> None:
    draw = Draw(device)
    value, gate = draw(3001), draw(3001)
    right = value.double() * F.gelu(gate.double())
    assert_close(kernels.gate_(value.clone(), gate), right)


@pytest.mark.parametrize("switched", [False, True])
def test_blend(device: torch.device, switched: bool) -> None:
    draw = Draw(device)
    spatial, temporal, mix = draw(2, 5, 101), draw(2, 5, 101), draw(1)
    a = torch.sigmoid(mix.double())
    of_temporal = a if switched else 1 - a
    right = torch.lerp(spatial.double(), temporal.double(), of_temporal)
    assert_close(kernels.blend(spatial, temporal, mix, switched, False), right)
    right = spatial.double() + of_temporal * temporal.double()
    assert_close(kernels.blend(spatial, temporal, mix, switched, True), right)


@pytest.mark.parametrize(
    ("frames", "pixels", "width", "heads"),
    [(5, 7, 32, 3), (25, 2, 64, 2), (1, 3, 16, 1), (33, 2, 24, 2)],
)
def test_attention_along_frames(
    device: torch.device, frames: int, pixels: int, width: int, heads: int
) -> None:
    draw = Draw(device)
    q, k, v = (draw(2, frames, pixels, width * heads) for _ in range(3))
    rows = (x.double().unflatten(-1, (heads, width)).permute(0, 2, 3, 1, 4) for x in (q, k, v))
    right = F.scaled_dot_product_attention(*rows).permute(0, 3, 1, 2, 4).flatten(3)
    assert_close(kernels.attend_frames(q, k, v, heads), right)


@pytest.mark.parametrize(
    ("frames", "pixels", "c_in", "c_out"), [(5, 9, 96, 64), (1, 130, 32, 32), (3, 50, 40, 260)]
)
def test_convolution_along_frames(
    device: torch.device, frames: int, pixels: int, c_in: int, c_out: int
) -> None:
    draw = Draw(device)
    x, weight, bias = draw(2, frames, pixels, c_in), draw(c_out, 3, c_in), draw(c_out)

    def right(x: Tensor, bias: Tensor | None) -> Tensor:
        taps = weight.double().permute(0, 2, 1)[..., None]
        clips = x.double().permute(0, 3, 1, 2)
        y = F.conv2d(clips, taps, None if bias is None else bias.double(), padding=(1, 0))
        return y.permute(0, 2, 3, 1)

    assert_close(kernels.convolve_frames(x, weight, bias), right(x, bias))
    assert_close(kernels.convolve_frames(x, weight, None), right(x, None))
    for start in range(frames):  # a slice of one clip, which sees its neighbours
        for end in range(start + 1, frames + 1):
            clip = x[:1]
            before = clip[:, start - 1 : start].clone() if start else None
            after = clip[:, end : end + 1].clone() if end < frames else None
            part = kernels.convolve_frames(clip[:, start:end].clone(), weight, bias, before, after)
            assert_close(part, right(clip, bias)[:, start:end])
