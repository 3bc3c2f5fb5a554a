"""Triton kernels for CUDA: norms, the gate, attention along frames, temporal convolutions.

Each has a plain torch twin where it is used (`group_norm`, `layers`), which is what a CPU runs and
what the kernel is tested against. All arithmetic is in float32 and statistics are added up in
float64; only what is stored is in the tensors' own type. Shapes: N samples, L positions, C channels
last.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 512  # positions whose sums one program adds up
STEP = 32  # positions it holds at once
MAX_FRAMES = 128  # that `attend_frames` holds at once


class Kernel:
    """A function in Triton's language. On `meta` it is not launched: only its results are made.

    So the memory of what calls it can be planned without a GPU, see `memory_plan`.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._compiled = triton.jit(function)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(first: Tensor, *others: Any, **options: Any) -> None:
            if not first.is_meta:
                self._compiled[grid](first, *others, **options)

        return launch


# Group norm


@Kernel
def _partial_sums(
    x, partial, length, channels, ROWS: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr
):
    """Sums over ROWS positions, by channel, of the values and their squares, less a pivot.

    The pivot is the sample's first position: what is summed stays small beside its spread.
    """
    sample, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    start = x + sample * length * channels
    pivot = tl.load(start + at, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([STEP, BLOCK], tl.float32)
    squares = tl.zeros([STEP, BLOCK], tl.float32)
    for first in range(0, ROWS, STEP):
        rows = chunk * ROWS + first + tl.arange(0, STEP)
        here = (rows < length)[:, None] & inside[None, :]
        offsets = rows.to(tl.int64)[:, None] * channels + at[None, :]
        value = tl.load(start + offsets, mask=here, other=0.0).to(tl.float32) - pivot[None, :]
        value = tl.where(here, value, 0.0)
        total += value
        squares += value * value
    into = partial + (sample * tl.num_programs(1) + chunk) * 2 * channels + at
    tl.store(into, tl.sum(total, 0), mask=inside)
    tl.store(into + channels, tl.sum(squares, 0), mask=inside)


@Kernel
def _group_sums(
    x,
    partial,
    shift,
    sums,
    length,
    channels,
    chunks,
    shared,
    SHIFTED: tl.constexpr,
    LOOPS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """How many values a group of a sample has, their sum, and that of squares, in float64."""
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
    pivot = tl.load(x + sample * length * channels + at, mask=inside, other=0.0).to(tl.float64)
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
    """What each value is multiplied by, and what is added then: (2, N, C)."""
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
    x,
    factors,
    y,
    samples,
    length,
    channels,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    SILU: tl.constexpr,
):
    sample, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    scale = tl.load(factors + sample * channels + at, mask=inside, other=0.0)[None, :]
    added = tl.load(factors + (samples + sample) * channels + at, mask=inside, other=0.0)[None, :]
    for first in range(0, ROWS, STEP):
        rows = chunk * ROWS + first + tl.arange(0, STEP)
        here = (rows < length)[:, None] & inside[None, :]
        offsets = sample * length * channels + rows.to(tl.int64)[:, None] * channels + at[None, :]
        value = tl.load(x + offsets, mask=here, other=0.0).to(tl.float32) * scale + added
        if SILU:
            value *= tl.sigmoid(value)
        tl.store(y + offsets, value.to(y.dtype.element_ty), mask=here)


def _block(channels: int) -> int:
    """Channels of a program: such that few of its lanes are beyond the last one."""
    sizes = (256, 128, 64)
    return min(sizes, key=lambda size: (triton.cdiv(channels, size) * size, -size))


def group_sums(x: Tensor, groups: int, shift: Tensor | None) -> Tensor:
    """See `group_norm.group_sums`."""
    samples, length, channels = x.shape
    chunks, block = triton.cdiv(length, ROWS), _block(channels)
    partial = x.new_empty(samples, chunks, 2, channels, dtype=torch.float32)
    grid = (samples, chunks, triton.cdiv(channels, block))
    _partial_sums[grid](x, partial, length, channels, ROWS=ROWS, STEP=STEP, BLOCK=block)
    sums = x.new_empty(samples, 3, groups, dtype=torch.float64)
    width = triton.next_power_of_2(channels // groups)
    _group_sums[(samples, groups)](
        x, partial, x if shift is None else shift, sums, length, channels, chunks,
        samples // (samples if shift is None else len(shift)),
        SHIFTED=shift is not None, LOOPS=triton.cdiv(chunks, 64), CHUNKS=64, WIDTH=width,
    )  # fmt: skip
    return sums


def factors(sums: Tensor, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None) -> Tensor:
    """See `group_norm.factors`."""
    samples, _, groups = sums.shape
    channels = len(weight)
    out = weight.new_empty(2, samples, channels, dtype=torch.float32)
    _factors[(samples, triton.cdiv(channels, 256))](
        sums, weight, bias, weight if shift is None else shift, out, samples, channels, groups,
        samples // (samples if shift is None else len(shift)), eps,
        SHIFTED=shift is not None, BLOCK=256,
    )  # fmt: skip
    return out


def apply_factors(x: Tensor, factors: Tensor, silu: bool) -> Tensor:
    """See `group_norm.apply_factors`."""
    samples, length, channels = x.shape
    y, block = torch.empty_like(x), _block(channels)
    grid = (samples, triton.cdiv(length, ROWS), triton.cdiv(channels, block))
    _apply[grid](
        x, factors, y, samples, length, channels, ROWS=ROWS, STEP=STEP, BLOCK=block, SILU=silu
    )
    return y


# Layer norm, and sums


@Kernel
def _layer_norm(
    x, more, vector, weight, bias, total, y, rows, channels, shared, eps,
    MORE: tl.constexpr, VECTOR: tl.constexpr, NORM: tl.constexpr,
    STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of rows, others, and a vector for `shared` rows each; its norm over the channels."""
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
        tl.store(total + offsets, value.to(total.dtype.element_ty), mask=here)
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
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See `layers.LayerNorm.of_sum`; the sum is x itself where nothing more is to be stored."""
    channels = x.shape[-1]
    rows, block = x.numel() // channels, triton.next_power_of_2(channels)
    step = max(1, 4096 // block)
    y, total = torch.empty_like(x), x if more is None else torch.empty_like(x)
    _layer_norm[(triton.cdiv(rows, step), 1)](
        x, more, vector, weight, bias, total, y, rows, channels,
        1 if vector is None else rows // len(vector), eps,
        MORE=more is not None, VECTOR=vector is not None, NORM=True, STEP=step, BLOCK=block,
    )  # fmt: skip
    return total, y


def add_(x: Tensor, more: Tensor, vector: Tensor) -> Tensor:
    """Add `more`, and a vector (S, C) for each S-th part of the rows, to x in place."""
    channels = x.shape[-1]
    rows, block = x.numel() // channels, _block(channels)
    _layer_norm[(triton.cdiv(rows, 16), triton.cdiv(channels, block))](
        x, more, vector, None, None, x, None, rows, channels, rows // len(vector), 0.0,
        MORE=True, VECTOR=True, NORM=False, STEP=16, BLOCK=block,
    )  # fmt: skip
    return x


# Gate


@Kernel
def _gate(value, gate, y, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    g = tl.load(gate + at, mask=here, other=0.0).to(tl.float32)
    v = tl.load(value + at, mask=here, other=0.0).to(tl.float32)
    v *= 0.5 * g * (1 + tl.erf(g * 0.7071067811865476))
    tl.store(y + at, v.to(y.dtype.element_ty), mask=here)


def gate_(value: Tensor, gate: Tensor) -> Tensor:
    """`value` times the exact GELU of `gate`, in the place of `value`."""
    _gate[(triton.cdiv(value.numel(), 2048),)](value, gate, value, value.numel(), BLOCK=2048)
    return value


# Blend


@Kernel
def _blend(
    x, y, mix, out, count, BLOCK: tl.constexpr, SWITCHED: tl.constexpr, RESIDUAL: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    factor = tl.load(mix).to(tl.float32)
    of_temporal = tl.sigmoid(factor if SWITCHED else -factor)
    spatial = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    temporal = tl.load(y + at, mask=here, other=0.0).to(tl.float32)
    if not RESIDUAL:
        temporal -= spatial
    value = spatial + of_temporal * temporal
    tl.store(out + at, value.to(out.dtype.element_ty), mask=here)


def blend(spatial: Tensor, temporal: Tensor, mix: Tensor, switched: bool, residual: bool) -> Tensor:
    """See `layers.Blend`. residual: `temporal` is what the branch adds to `spatial`."""
    out, count = torch.empty_like(spatial), spatial.numel()
    _blend[(triton.cdiv(count, 2048),)](
        spatial, temporal, mix, out, count, BLOCK=2048, SWITCHED=switched, RESIDUAL=residual
    )
    return out


# Attention along the frames of each pixel


@Kernel
def _attend_frames(
    q,
    k,
    v,
    out,
    frames,
    pixels,
    channels,
    scale,
    FRAMES: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
):
    pixel, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    clip = tl.program_id(2).to(tl.int64)
    frame, lane = tl.arange(0, FRAMES), tl.arange(0, WIDTH)
    here = (frame < frames)[:, None] & (lane < HEAD)[None, :]
    row = (clip * frames + frame.to(tl.int64)) * pixels + pixel
    offsets = row[:, None] * channels + head * HEAD + lane[None, :]
    queries = tl.load(q + offsets, mask=here, other=0.0)
    keys = tl.load(k + offsets, mask=here, other=0.0)
    values = tl.load(v + offsets, mask=here, other=0.0)
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
    scores = tl.where((frame < frames)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights /= tl.sum(weights, 1)[:, None]
    mixed = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    tl.store(out + offsets, mixed.to(out.dtype.element_ty), mask=here)


def attend_frames(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention along F of (B, F, L, C), contiguous, in `heads` heads."""
    clips, frames, pixels, channels = q.shape
    width = channels // heads
    out = torch.empty_like(q)
    _attend_frames[(pixels, heads, clips)](
        q, k, v, out, frames, pixels, channels, width**-0.5,
        FRAMES=max(16, triton.next_power_of_2(frames)),
        WIDTH=max(16, triton.next_power_of_2(width)), HEAD=width, num_warps=2,
    )  # fmt: skip
    return out


# Matrix products


@triton.jit
def _tile(down, across, GROUP: tl.constexpr):
    """Row and column of a program's tile: GROUP rows together, which share what is cached."""
    number, in_group = tl.program_id(0), GROUP * across
    first = number // in_group * GROUP
    tall = min(down - first, GROUP)
    return first + number % in_group % tall, number % in_group // tall


@Kernel
def _convolve_frames(
    x, weight, bias, y, rows, pixels, frames, back: tl.int64, ahead: tl.int64, lowest, highest,
    wide, channels: tl.constexpr, BIASED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """(rows, 3 C) times (3 C, N): each row is a pixel of three frames.

    back, ahead: how many elements lie between the first frame and the one before it, and between
    the last and the one after it. Frames from `lowest` to `highest` are there; others are zero.
    """
    tile_row, tile_column = _tile(tl.cdiv(rows, M), tl.cdiv(wide, N), GROUP)
    row = (tile_row * M + tl.arange(0, M)).to(tl.int64)
    column = tile_column * N + tl.arange(0, N)
    frame = (row // pixels % frames).to(tl.int32)
    lane = tl.arange(0, K)
    source = x + row * channels
    stride = pixels.to(tl.int64) * channels
    back = tl.where(frame == 0, back, -stride)
    ahead = tl.where(frame == frames - 1, ahead, stride)
    filters = weight + column.to(tl.int64) * 3 * channels
    steps: tl.constexpr = (channels + K - 1) // K
    total = tl.zeros([M, N], tl.float32)
    for step in range(3 * steps):
        tap = step // steps
        at = step % steps * K + lane
        shift = tl.where(tap == 0, back, tl.where(tap == 1, 0, ahead))
        neighbour = frame + tap - 1
        there = (row < rows) & (neighbour >= lowest) & (neighbour < highest)
        left = tl.load(
            (source + shift)[:, None] + at[None, :],
            mask=there[:, None] & (at < channels)[None, :], other=0.0,
        )  # fmt: skip
        right = tl.load(
            filters[None, :] + (tap * channels + at)[:, None],
            mask=(column < wide)[None, :] & (at < channels)[:, None], other=0.0,
        )  # fmt: skip
        total = tl.dot(left, right, total, input_precision="ieee")
    if BIASED:
        total += tl.load(bias + column, mask=column < wide, other=0.0).to(tl.float32)[None, :]
    keep = (row < rows)[:, None] & (column < wide)[None, :]
    tl.store(y + row[:, None] * wide + column[None, :], total.to(y.dtype.element_ty), mask=keep)


def convolve_frames(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Tensor | None = None,
    after: Tensor | None = None,
) -> Tensor:
    """A (3, 1) convolution along F of (B, F, L, C), contiguous, zeros beyond its ends.

    weight: (C out, 3, C), contiguous. before, after: (1, 1, L, C), the frames beside those of the
    one clip; without them, zeros.
    """
    clips, frames, pixels, channels = x.shape
    rows, wide = clips * frames * pixels, len(weight)
    back, ahead, lowest, highest = 0, 0, 0, frames
    if before is not None:
        back, lowest = (before.data_ptr() - x.data_ptr()) // x.element_size(), -1
    if after is not None:
        last = (frames - 1) * pixels * channels
        ahead = (after.data_ptr() - x.data_ptr()) // x.element_size() - last
        highest = frames + 1
    y = x.new_empty(clips, frames, pixels, wide)
    tall, across = 128, 128 if wide % 256 else 256
    tiles = triton.cdiv(rows, tall) * triton.cdiv(wide, across)
    _convolve_frames[(tiles,)](
        x, weight, x if bias is None else bias, y, rows, pixels, frames, back, ahead, lowest,
        highest, wide, channels, BIASED=bias is not None,
        M=tall, N=across, K=64, GROUP=8, num_warps=8, num_stages=3,
    )  # fmt: skip
    return y
