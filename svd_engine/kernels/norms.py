"""Group norm in two steps, layer norm with the additions before it, and sums."""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from svd_engine.kernels.launch import Kernel

ROWS = 512  # positions that one program sums
STEP = 32  # positions that it holds at once


@triton.jit
def _load(x, more, row, at, split, channels, here, JOINED: tl.constexpr):
    """Load values of rows in float32. JOINED: channels from `split` on are those of `more`."""
    if JOINED:
        first = tl.load(x + row * split + at, mask=here & (at < split), other=0.0)
        second = more + row * (channels - split) + (at - split)
        value = first + tl.load(second, mask=here & (at >= split), other=0.0)
    else:
        value = tl.load(x + row * channels + at, mask=here, other=0.0)
    return value.to(tl.float32)


@Kernel
def _partial_sums(
    x, more, partial, length, channels, split, JOINED: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum values and their squares over ROWS positions, by channel, after subtracting a pivot.

    The pivot is the sample's first position. It keeps the mean small compared with the spread.
    """
    sample, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    pivot = _load(x, more, sample * length, at, split, channels, inside, JOINED)
    total = tl.zeros([STEP, BLOCK], tl.float32)
    squares = tl.zeros([STEP, BLOCK], tl.float32)
    for first in range(0, ROWS, STEP):
        rows = chunk * ROWS + first + tl.arange(0, STEP)
        here = (rows < length)[:, None] & inside[None, :]
        row = (sample * length + rows)[:, None]
        value = _load(x, more, row, at[None, :], split, channels, here, JOINED)
        value = tl.where(here, value - pivot[None, :], 0.0)
        total += value
        squares += value * value
    into = partial + (sample * tl.num_programs(1) + chunk) * 2 * channels + at
    tl.store(into, tl.sum(total, 0), mask=inside)
    tl.store(into + channels, tl.sum(squares, 0), mask=inside)


@Kernel
def _group_sums(
    x, more, partial, shift, sums, length, channels, split, chunks, shared, JOINED: tl.constexpr,
    SHIFTED: tl.constexpr, LOOPS: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The count of a group's values in a sample, their sum and their squares' sum, in float64."""
    sample, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    width = channels // tl.num_programs(1)
    lane = tl.arange(0, WIDTH)
    inside = lane < width
    at = group * width + lane
    total = tl.zeros([CHUNKS, WIDTH], tl.float64)
    squares = tl.zeros([CHUNKS, WIDTH], tl.float64)
    for loop in range(LOOPS):
        chunk = loop * CHUNKS + tl.arange(0, CHUNKS)
        here = (chunk < chunks)[:, None] & inside[None, :]
        start = partial + (sample * chunks + chunk[:, None]) * 2 * channels + at[None, :]
        total += tl.load(start, mask=here, other=0.0).to(tl.float64)
        squares += tl.load(start + channels, mask=here, other=0.0).to(tl.float64)
    by_channel = tl.sum(total, 0)
    pivot = _load(x, more, sample * length, at, split, channels, inside, JOINED).to(tl.float64)
    if SHIFTED:
        own = shift + (sample // shared) * channels
        pivot += tl.load(own + at, mask=inside, other=0.0).to(tl.float64)
    each = tl.where(inside, by_channel + length * pivot, 0.0)
    each_squares = tl.sum(squares, 0) + 2 * pivot * by_channel + length * pivot * pivot
    into = sums + sample * 3 * tl.num_programs(1) + group
    tl.store(into, (length * width).to(tl.float64))
    tl.store(into + tl.num_programs(1), tl.sum(each, 0))
    tl.store(into + 2 * tl.num_programs(1), tl.sum(tl.where(inside, each_squares, 0.0), 0))


@Kernel
def _factors(
    sums,
    weight,
    bias,
    shift,
    out,
    samples,
    channels,
    groups,
    shared,
    eps,
    SHIFTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The factor and the summand of each channel: (2, N, C)."""
    sample = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    of_group = sums + sample * 3 * groups + at // (channels // groups)
    count = tl.load(of_group, mask=inside, other=1.0)
    mean = tl.load(of_group + groups, mask=inside, other=0.0) / count
    square = tl.load(of_group + 2 * groups, mask=inside, other=1.0) / count
    spread = tl.maximum(square - mean * mean, 0.0) + eps
    scale = tl.load(weight + at, mask=inside, other=0.0).to(tl.float64) / tl.sqrt(spread)
    if SHIFTED:
        mean -= tl.load(shift + (sample // shared) * channels + at, mask=inside, other=0.0).to(
            tl.float64
        )
    added = tl.load(bias + at, mask=inside, other=0.0).to(tl.float64) - mean * scale
    tl.store(out + sample * channels + at, scale.to(tl.float32), mask=inside)
    tl.store(out + (samples + sample) * channels + at, added.to(tl.float32), mask=inside)


@Kernel
def _apply(
    x, more, factors, y, samples, length, channels, split, JOINED: tl.constexpr,
    SILU: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    scale = tl.load(factors + sample * channels + at, mask=inside, other=0.0)[None, :]
    added = tl.load(factors + (samples + sample) * channels + at, mask=inside, other=0.0)[None, :]
    for first in range(0, ROWS, STEP):
        rows = chunk * ROWS + first + tl.arange(0, STEP)
        here = (rows < length)[:, None] & inside[None, :]
        row = (sample * length + rows)[:, None]
        value = _load(x, more, row, at[None, :], split, channels, here, JOINED) * scale + added
        if SILU:
            value *= tl.sigmoid(value)
        tl.store(y + row * channels + at[None, :], value.to(y.dtype.element_ty), mask=here)


def _block(channels: int) -> int:
    """The channels of one program, chosen so that few of its lanes are beyond the last channel."""
    sizes = (256, 128, 64)
    return min(sizes, key=lambda size: (triton.cdiv(channels, size) * size, -size))


def group_sums(
    x: Tensor, groups: int, shift: Tensor | None = None, more: Tensor | None = None
) -> Tensor:
    """The kernel of `group_norm.group_sums`. more: (N, L, D), joined to x along the channels."""
    samples, length, split = x.shape
    channels = split + (0 if more is None else more.shape[-1])
    chunks, block = triton.cdiv(length, ROWS), _block(channels)
    partial = x.new_empty(samples, chunks, 2, channels, dtype=torch.float32)
    grid = (samples, chunks, triton.cdiv(channels, block))
    _partial_sums[grid](
        x, more, partial, length, channels, split, JOINED=more is not None,
        ROWS=ROWS, STEP=STEP, BLOCK=block,
    )  # fmt: skip
    sums = x.new_empty(samples, 3, groups, dtype=torch.float64)
    width = triton.next_power_of_2(channels // groups)
    _group_sums[(samples, groups)](
        x, more, partial, shift, sums, length, channels, split, chunks,
        samples // (samples if shift is None else len(shift)), JOINED=more is not None,
        SHIFTED=shift is not None, LOOPS=triton.cdiv(chunks, 64), CHUNKS=64, WIDTH=width,
    )  # fmt: skip
    return sums


def factors(sums: Tensor, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None) -> Tensor:
    """The kernel of `group_norm.factors`."""
    samples, _, groups = sums.shape
    channels = len(weight)
    out = weight.new_empty(2, samples, channels, dtype=torch.float32)
    _factors[(samples, triton.cdiv(channels, 256))](
        sums, weight, bias, weight if shift is None else shift, out, samples, channels, groups,
        samples // (samples if shift is None else len(shift)), eps,
        SHIFTED=shift is not None, BLOCK=256,
    )  # fmt: skip
    return out


def apply_factors(
    x: Tensor, factors: Tensor, silu: bool, y: Tensor, more: Tensor | None = None
) -> Tensor:
    """The kernel of `group_norm.apply_factors`; y may be x. more: see `group_sums`."""
    samples, length, channels = y.shape
    split, block = x.shape[-1], _block(channels)
    grid = (samples, triton.cdiv(length, ROWS), triton.cdiv(channels, block))
    _apply[grid](
        x, more, factors, y, samples, length, channels, split, JOINED=more is not None,
        SILU=silu, ROWS=ROWS, STEP=STEP, BLOCK=block,
    )  # fmt: skip
    return y


@triton.jit
def of_temporal(mix, SWITCHED: tl.constexpr):
    """The factor of the temporal branch; see `layers.Blend`."""
    factor = tl.load(mix).to(tl.float32)
    return tl.sigmoid(factor if SWITCHED else -factor)


@Kernel
def _layer_norm(
    x, more, vector, weight, bias, ahead, spatial, mix, total, y, rows, channels, shared, eps,
    MORE: tl.constexpr, VECTOR: tl.constexpr, AHEAD: tl.constexpr, BLEND: tl.constexpr,
    NORM: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add other rows, and a vector per `shared` rows, to rows; normalize over the channels."""
    row = tl.program_id(0).to(tl.int64) * STEP + tl.arange(0, STEP)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = (row < rows)[:, None] & (at < channels)[None, :]
    offsets = row[:, None] * channels + at[None, :]
    value = tl.load(x + offsets, mask=here, other=0.0).to(tl.float32)
    if MORE:
        value += tl.load(more + offsets, mask=here, other=0.0).to(tl.float32)
    if VECTOR:
        own = (row // shared)[:, None] * channels + at[None, :]
        value += tl.load(vector + own, mask=here, other=0.0).to(tl.float32)
    if MORE:
        kept = value
        if AHEAD:
            kept += tl.load(ahead + at, mask=at < channels, other=0.0).to(tl.float32)[None, :]
        if BLEND:
            other = tl.load(spatial + offsets, mask=here, other=0.0).to(tl.float32)
            kept = other + of_temporal(mix, False) * (kept - other)
        tl.store(total + offsets, kept.to(total.dtype.element_ty), mask=here)
    if NORM:
        mean = tl.sum(value, 1) / channels
        value = tl.where(here, value - mean[:, None], 0.0)
        scale = tl.rsqrt(tl.sum(value * value, 1) / channels + eps)
        gain = tl.load(weight + at, mask=at < channels, other=0.0).to(tl.float32)
        added = tl.load(bias + at, mask=at < channels, other=0.0).to(tl.float32)
        value = value * scale[:, None] * gain[None, :] + added[None, :]
        tl.store(y + offsets, value.to(y.dtype.element_ty), mask=here)


def layer_norm(
    x: Tensor,
    more: Tensor | None,
    vector: Tensor | None,
    norm: nn.LayerNorm,
    ahead: Tensor | None = None,
    blend: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Add `more` and a vector to x (..., C), and normalize the sum.

    Returns the sum and its layer norm; without `more`, the first tensor returned is x itself.
    vector: (S, C), a row for each of S equal parts of x's rows.
    ahead: (C,), added to the returned sum, but not to what is normalized.
    blend: (..., C) and a mix factor, with which the returned sum is blended.
    """
    channels = x.shape[-1]
    rows, block = x.numel() // channels, triton.next_power_of_2(channels)
    step = max(1, 4096 // block)
    y, total = torch.empty_like(x), x if more is None else torch.empty_like(x)
    spatial, mix = blend or (None, None)
    _layer_norm[(triton.cdiv(rows, step), 1)](
        x, more, vector, norm.weight, norm.bias, ahead, spatial, mix, total, y, rows, channels,
        1 if vector is None else rows // len(vector), norm.eps,
        MORE=more is not None, VECTOR=vector is not None, AHEAD=ahead is not None,
        BLEND=blend is not None, NORM=True, STEP=step, BLOCK=block,
    )  # fmt: skip
    return total, y


def add_(x: Tensor, more: Tensor, vector: Tensor) -> Tensor:
    """Add `more` and a vector (S, C) to x in place, a row for each of S equal parts of x's rows."""
    channels = x.shape[-1]
    rows, block = x.numel() // channels, _block(channels)
    _layer_norm[(triton.cdiv(rows, 16), triton.cdiv(channels, block))](
        x, more, vector, None, None, None, None, None, x, None, rows, channels,
        rows // len(vector), 0.0, MORE=True, VECTOR=True, AHEAD=False, BLEND=False, NORM=False,
        STEP=16, BLOCK=block,
    )  # fmt: skip
    return x
