"""Attention along the frames of each pixel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from svd_engine.kernels.launch import Kernel

MAX_FRAMES = 128  # the most that `attend_frames` can hold at once


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
