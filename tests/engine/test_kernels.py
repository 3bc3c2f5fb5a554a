"""Triton's kernels compared with torch in float64 for odd shapes, interpreted or on a GPU."""

import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.config import GROUPS

kernels: ModuleType = pytest.importorskip("svd_engine.kernels", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of SiLU, on numpy
INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"


norms: ModuleType = pytest.importorskip("svd_engine.kernels.norms", exc_type=ImportError)
# The interpreter walks through a program step by step: two are enough to see one follow another.
ROWS: int = 2 * norms.STEP if INTERPRETED else norms.ROWS
HALF = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]  # numpy has no bfloat16

if INTERPRETED:
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_for_numpy(tensor: Any, scope: Any) -> None:
        """As Triton 3.6 does, but for `int` of arrays of one element, which NumPy now refuses."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_tensor_for_numpy


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
    [
        (3, 70, 96, 3),
        (2, 2 * ROWS + 76, 320, 0),
        (4, 5, 64, 2),
        (1, 1, 2560, 1),
        (2, ROWS + 1, 32, 1),
    ],
)
def test_group_norm(
    device: torch.device,
    samples: int,
    length: int,
    channels: int,
    shifts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(norms, "ROWS", ROWS)
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
    # The same in two tensors, joined within a group.
    parts = [part.contiguous() for part in x.split((channels - 24, 24), dim=-1)]
    joins = channels > 32
    assert not joins or kernels.group_sums(parts[0], GROUPS, shift, parts[1]).equal(sums)
    norm = F.group_norm(shifted.transpose(1, 2), GROUPS, weight.double(), bias.double(), 1e-5)
    for silu in (True, False):
        right = (F.silu(norm) if silu else norm).transpose(1, 2)
        # x by a factor and a summand, both about 30 times the result: so much of float32 is lost.
        normed = kernels.apply_factors(x, factors, silu, torch.empty_like(x))
        assert_close(normed, right, 1e-5)
        if joins:
            into = torch.empty_like(x)
            joined = kernels.apply_factors(parts[0], factors, silu, into, parts[1])
            assert joined.equal(normed)
        own = x.clone()
        assert kernels.apply_factors(own, factors, silu, own).equal(normed)


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

    layer = nn.LayerNorm(channels, eps=1e-5, device=device).requires_grad_(False)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    total, normed = kernels.layer_norm(x, more, vector, layer)
    right = x.double() + more.double() + of_row
    assert_close(total, right)
    assert_close(normed, norm(right))
    assert_close(kernels.layer_norm(x, None, None, layer)[1], norm(x.double()))
    assert_close(kernels.layer_norm(x, None, vector, layer)[1], norm(x.double() + of_row))
    assert_close(kernels.add_(x.clone(), more, vector), right)
    ahead, spatial, mix = draw(channels), draw(rows, channels), draw(1)
    total, normed = kernels.layer_norm(x, more, vector, layer, ahead, (spatial, mix))
    assert_close(normed, norm(right))
    kept = right + ahead.double()
    assert_close(total, torch.lerp(spatial.double(), kept, torch.sigmoid(-mix.double())))
    assert_close(kernels.layer_norm(x, more, vector, layer, ahead)[0], kept)


def test_gate(device: torch.device) -> None:
    draw = Draw(device)
    value, gate, mix = draw(3001), draw(3001), draw(1)
    right = value.double() * F.gelu(gate.double())
    assert_close(kernels.gate_(value.clone(), gate), right)
    assert_close(kernels.gate_(value.clone(), gate, mix), right * torch.sigmoid(-mix.double()))


@pytest.mark.parametrize(("rows", "channels", "wide"), [(300, 64, 128), (7, 192, 256)])
@pytest.mark.parametrize("dtype", HALF)
def test_gated_product(
    device: torch.device, dtype: torch.dtype, rows: int, channels: int, wide: int
) -> None:
    draw = Draw(device)
    x, bias, mix = (draw(*shape).to(dtype) for shape in ((rows, channels), (2 * wide,), (1,)))
    weight = (draw(2 * wide, channels) / channels**0.5).to(dtype)
    assert kernels.geglu_fits(x, weight)
    assert not kernels.geglu_fits(x[:, :40], weight[:, :40])
    value, gate = F.linear(x.double(), weight.double(), bias.double()).chunk(2, dim=-1)
    right = value * F.gelu(gate)
    rounding = torch.finfo(dtype).eps
    assert_close(kernels.geglu(x, weight, bias), right, rounding)
    right = right * torch.sigmoid(-mix.double())
    assert_close(kernels.geglu(x, weight, bias, mix), right, rounding)


def test_gelu_is_exact_far_out(device: torch.device) -> None:
    gate = torch.linspace(-12, 12, 128, device=device)
    x = torch.zeros(1, 64, device=device, dtype=torch.float16)
    weight = torch.zeros(256, 64, device=device, dtype=torch.float16)
    bias = torch.cat([torch.ones_like(gate), gate]).half()
    right = F.gelu(bias[128:].double())
    given = kernels.geglu(x, weight, bias)[0].double()
    assert ((given - right).abs() <= 1e-3 * right.abs() + 1e-6).all()


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


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In float64, by torch."""
    taps = weight.double().permute(0, 2, 1)[..., None]
    clips = x.double().permute(0, 3, 1, 2)
    y = F.conv2d(clips, taps, None if bias is None else bias.double(), padding=(1, 0))
    return y.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("frames", "pixels", "c_in", "c_out"), [(5, 9, 96, 64), (1, 130, 32, 32), (3, 50, 40, 260)]
)
def test_convolution_along_frames(
    device: torch.device, frames: int, pixels: int, c_in: int, c_out: int
) -> None:
    draw = Draw(device)
    x, weight, bias = draw(2, frames, pixels, c_in), draw(c_out, 3, c_in), draw(c_out)
    onto, mix = draw(2, frames, pixels, c_out), draw(1)
    assert_close(kernels.convolve_frames(x, weight, bias), convolved(x, weight, bias))
    assert_close(kernels.convolve_frames(x, weight, None), convolved(x, weight, None))
    blended = kernels.convolve_frames(x, weight, bias, None, None, onto, mix, True)
    share = torch.sigmoid(mix.double())
    assert_close(blended, onto.double() + share * convolved(x, weight, bias))
    for start in range(frames):  # a slice of one clip, which sees its neighbours
        for end in range(start + 1, frames + 1):
            clip = x[:1]
            before = clip[:, start - 1 : start].clone() if start else None
            after = clip[:, end : end + 1].clone() if end < frames else None
            part = kernels.convolve_frames(clip[:, start:end].clone(), weight, bias, before, after)
            assert_close(part, convolved(clip, weight, bias)[:, start:end])


@pytest.mark.parametrize(
    ("frames", "pixels", "c_in", "c_out"), [(3, 50, 64, 192), (1, 1030, 64, 128), (2, 9, 128, 256)]
)
@pytest.mark.parametrize("dtype", HALF)
def test_convolution_of_whole_clips_by_descriptors(
    device: torch.device, dtype: torch.dtype, frames: int, pixels: int, c_in: int, c_out: int
) -> None:
    draw = Draw(device)
    x, bias, mix = (draw(*shape).to(dtype) for shape in ((2, frames, pixels, c_in), (c_out,), (1,)))
    weight = (draw(c_out, 3, c_in) / (3 * c_in) ** 0.5).to(dtype)
    onto = draw(2, frames, pixels, c_out).to(dtype)
    right, rounding = convolved(x, weight, bias), torch.finfo(dtype).eps
    assert_close(kernels.convolve_frames(x, weight, bias), right, rounding)
    for switched in (False, True):
        blended = kernels.convolve_frames(x, weight, bias, None, None, onto, mix, switched)
        share = torch.sigmoid(mix.double() if switched else -mix.double())
        assert_close(blended, onto.double() + share * right, rounding)


@pytest.mark.slow
def test_every_kernel_of_the_published_networks_compiles_for_hopper() -> None:
    command = [sys.executable, "-m", "tests.compile_kernels", "svd-xt"]
    compiled = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(command, env=compiled, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for name in ("_geglu", "_convolve_clips", "_attend_frames", "_apply"):
        assert name in done.stdout
