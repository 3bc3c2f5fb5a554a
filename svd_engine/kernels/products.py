"""Matrix products fused with the operations around them: temporal convolutions and GEGLU.

On Hopper and later GPUs the tensor memory accelerator loads the operands through descriptors.
Without it, a product that keeps its accumulators in registers has too few registers left for
addresses.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from svd_engine.kernels.launch import Kernel
from svd_engine.kernels.norms import of_temporal

DEPTH = 64  # channels that one iteration of a product sums


@cache
def _properties(device: torch.device) -> tuple[bool, int]:
    """Whether a GPU has descriptors and room for the tiles below; and its multiprocessors."""
    if device.type != "cuda":
        return True, 1
    index = torch.cuda.current_device() if device.index is None else device.index
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    major, _minor = torch.cuda.get_device_capability(index)
    return major >= 9 and properties["max_shared_mem"] >= 227 * 1024, properties[
        "multiprocessor_count"
    ]


@triton.jit
def _tile(number, down, across, GROUP: tl.constexpr):
    """The row and column of a tile. GROUP rows are visited together, to share cached operands."""
    in_group = GROUP * across
    first = number // in_group * GROUP
    tall = min(down - first, GROUP)
    return first + number % in_group % tall, number % in_group // tall


# GEGLU


@triton.jit
def _gated(value, gate):
    """`value` times the exact GELU of `gate`, in float32.

    erf is Abramowitz and Stegun's 7.1.26, whose error is at most 1.5e-7. It takes half as many
    instructions as the library's, which would double the instructions of the kernel.
    """
    far = tl.abs(gate) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * far)
    tail = 1.421413741 + t * (-1.453152027 + t * 1.061405429)
    tail = t * (0.254829592 + t * (-0.284496736 + t * tail))
    tail *= tl.exp2(gate * gate * -0.7213475204444817)
    return value * (0.5 * gate) * tl.where(gate < 0, tail, 2.0 - tail)


@Kernel
def _gate(value, gate, mix, y, count, SCALED: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    g = tl.load(gate + at, mask=here, other=0.0).to(tl.float32)
    v = tl.load(value + at, mask=here, other=0.0).to(tl.float32)
    v *= 0.5 * g * (1 + tl.erf(g * 0.7071067811865476))
    if SCALED:
        v *= of_temporal(mix, False)
    tl.store(y + at, v.to(y.dtype.element_ty), mask=here)


def gate_(value: Tensor, gate: Tensor, mix: Tensor | None = None) -> Tensor:
    """Multiply `value` in place by the exact GELU of `gate`.

    mix: also multiply by the temporal branch's share of this blend; see `layers.Blend`.
    """
    _gate[(triton.cdiv(value.numel(), 2048),)](
        value, gate, mix, value, value.numel(), SCALED=mix is not None, BLOCK=2048
    )
    return value


@Kernel
def _geglu(
    x, weight, bias, mix, y, rows, wide, channels: tl.constexpr, SCALED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Each program computes every PROGRAMS-th tile, and loads a tile while it gates the one before.

    N columns of the values and N of the gates form one product of 2 N columns.
    """
    down, across = tl.cdiv(rows, M), tl.cdiv(wide, N)
    for number in tl.range(tl.program_id(0), down * across, PROGRAMS, flatten=True):
        tile_row, tile_column = _tile(number, down, across, GROUP)
        row, column = tile_row * M, tile_column * N
        total = tl.zeros([M, 2 * N], tl.float32)
        for k in range(0, channels, K):
            filters = weight.load([0, column, k]).reshape(2 * N, K)
            total = tl.dot(x.load([row, k]), filters.T, total)
        value, gate = tl.split(total.reshape(M, 2, N).permute(0, 2, 1))
        at = column + tl.arange(0, N)
        value += tl.load(bias + at).to(tl.float32)[None, :]
        gate += tl.load(bias + wide + at).to(tl.float32)[None, :]
        value = _gated(value, gate)
        if SCALED:
            value *= of_temporal(mix, False)
        y.store([row, column], value.to(y.dtype))


def geglu_fits(x: Tensor, weight: Tensor) -> bool:
    """Whether `geglu` can compute this: half precision, whole tiles, a GPU with room for them."""
    whole = x.shape[-1] % DEPTH == 0 and len(weight) % 256 == 0
    return whole and x.element_size() == 2 and _properties(x.device)[0]


def geglu(x: Tensor, weight: Tensor, bias: Tensor, mix: Tensor | None = None) -> Tensor:
    """A linear layer of x (..., C), one half gated by the GELU of the other: (..., W).

    weight: (2 W, C), the values' rows, then the gates'. mix: see `gate_`.
    """
    channels, wide = x.shape[-1], len(weight) // 2
    rows = x.numel() // channels
    y = x.new_empty(*x.shape[:-1], wide)
    tall, across = 128, 128
    tiles = triton.cdiv(rows, tall) * triton.cdiv(wide, across)
    programs = min(tiles, _properties(x.device)[1])
    _geglu[(programs,)](
        TensorDescriptor.from_tensor(x.view(rows, channels), [tall, DEPTH]),
        TensorDescriptor.from_tensor(weight.view(2, wide, channels), [2, across, DEPTH]),
        bias, mix, TensorDescriptor.from_tensor(y.view(rows, wide), [tall, across]),
        rows, wide, channels, SCALED=mix is not None, M=tall, N=across, K=DEPTH, GROUP=8,
        PROGRAMS=programs, num_warps=8, num_stages=3,
    )  # fmt: skip
    return y


# Temporal convolution


@Kernel
def _convolve_clips(
    x, weight, bias, onto, mix, y, clips, frames, pixels, wide, channels: tl.constexpr,
    BIASED: tl.constexpr, ONTO: tl.constexpr, SWITCHED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """M pixels of a frame times (3 C, N). Frames beyond the ends of a clip are zeros."""
    across, parts = tl.cdiv(wide, N), tl.cdiv(pixels, M)
    tile_row, tile_column = _tile(tl.program_id(0), clips * frames * parts, across, GROUP)
    clip, frame = tile_row // parts // frames, tile_row // parts % frames
    pixel, column = tile_row % parts * M, tile_column * N
    steps: tl.constexpr = channels // K
    total = tl.zeros([M, N], tl.float32)
    for step in range(3 * steps):
        tap, k = step // steps, step % steps * K
        left = x.load([clip, frame + tap - 1, pixel, k]).reshape(M, K)
        total = tl.dot(left, weight.load([column, tap * channels + k]).T, total)
    at = column + tl.arange(0, N)
    if BIASED:
        total += tl.load(bias + at, mask=at < wide, other=0.0).to(tl.float32)[None, :]
    if ONTO:
        base = onto.load([clip, frame, pixel, column]).reshape(M, N).to(tl.float32)
        total = base + of_temporal(mix, SWITCHED) * total
    y.store([clip, frame, pixel, column], total.to(y.dtype).reshape(1, 1, M, N))


def _clips_fit(x: Tensor, weight: Tensor) -> bool:
    whole = x.shape[-1] % DEPTH == 0 and len(weight) % DEPTH == 0
    return whole and x.element_size() == 2 and _properties(x.device)[0]


def _convolve_whole(
    x: Tensor, weight: Tensor, bias: Tensor | None, onto: Tensor | None, mix: Tensor | None,
    switched: bool,
) -> Tensor:  # fmt: skip
    clips, frames, pixels, channels = x.shape
    wide = len(weight)
    y = x.new_empty(clips, frames, pixels, wide)
    tall, across = _tile_of(pixels, wide)
    tiles = clips * frames * triton.cdiv(pixels, tall) * triton.cdiv(wide, across)
    to = TensorDescriptor.from_tensor(y, [1, 1, tall, across])
    _convolve_clips[(tiles,)](
        TensorDescriptor.from_tensor(x, [1, 1, tall, DEPTH]),
        TensorDescriptor.from_tensor(weight.view(wide, 3 * channels), [across, DEPTH]), bias,
        to if onto is None else TensorDescriptor.from_tensor(onto, [1, 1, tall, across]),
        mix, to, clips, frames, pixels, wide, channels, BIASED=bias is not None,
        ONTO=onto is not None, SWITCHED=switched, M=tall, N=across, K=DEPTH, GROUP=8,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    return y


def _tile_of(pixels: int, wide: int) -> tuple[int, int]:
    """The rows and columns of a tile: large, but with few beyond the last pixel or channel."""
    if wide % 256 == 0 and pixels < 1024:
        return 128, 256
    return (256, 128) if pixels >= 1024 else (128, 128)


@Kernel
def _convolve_frames(
    x, weight, bias, onto, mix, y, rows, pixels, frames, back: tl.int64, ahead: tl.int64, lowest,
    highest, wide, channels: tl.constexpr, BIASED: tl.constexpr, ONTO: tl.constexpr,
    SWITCHED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """(rows, 3 C) times (3 C, N), where each row is a pixel of three frames.

    back, ahead: the elements between the first frame and the one before it, and between the last
    frame and the one after it. Frames outside `lowest` to `highest` are zeros.
    """
    tile_row, tile_column = _tile(tl.program_id(0), tl.cdiv(rows, M), tl.cdiv(wide, N), GROUP)
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
        of_step = step % steps * K + lane
        shift = tl.where(tap == 0, back, tl.where(tap == 1, 0, ahead))
        neighbour = frame + tap - 1
        there = (row < rows) & (neighbour >= lowest) & (neighbour < highest)
        left = tl.load(
            (source + shift)[:, None] + of_step[None, :],
            mask=there[:, None] & (of_step < channels)[None, :], other=0.0,
        )  # fmt: skip
        right = tl.load(
            filters[None, :] + (tap * channels + of_step)[:, None],
            mask=(column < wide)[None, :] & (of_step < channels)[:, None], other=0.0,
        )  # fmt: skip
        total = tl.dot(left, right, total, input_precision="ieee")
    if BIASED:
        total += tl.load(bias + column, mask=column < wide, other=0.0).to(tl.float32)[None, :]
    keep = (row < rows)[:, None] & (column < wide)[None, :]
    at = row[:, None] * wide + column[None, :]
    if ONTO:
        base = tl.load(onto + at, mask=keep, other=0.0).to(tl.float32)
        total = base + of_temporal(mix, SWITCHED) * total
    tl.store(y + at, total.to(y.dtype.element_ty), mask=keep)


def convolve_frames(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Tensor | None = None,
    after: Tensor | None = None,
    onto: Tensor | None = None,
    mix: Tensor | None = None,
    switched: bool = False,
) -> Tensor:
    """A (3, 1) convolution along F of (B, F, L, C), contiguous, with zeros beyond the ends.

    weight: (C out, 3, C), contiguous. before, after: (1, 1, L, C), the frames beside those of a
    single clip, instead of zeros. onto: (B, F, L, C out) and a mix factor: the temporal branch's
    share of the result is added to that tensor; see `layers.Blend`.
    """
    if before is None and after is None and _clips_fit(x, weight):
        return _convolve_whole(x, weight, bias, onto, mix, switched)
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
        x, weight, bias, onto, mix, y, rows, pixels, frames, back, ahead, lowest, highest, wide,
        channels, BIASED=bias is not None, ONTO=onto is not None, SWITCHED=switched,
        M=tall, N=across, K=64, GROUP=8, num_warps=8, num_stages=3,
    )  # fmt: skip
    return y
