"""Decodes a clip in slices of frames, with the same result as decoding it as a whole.

Two kinds of layers in the decoder mix frames: a temporal convolution needs one frame on either
side, and a temporal GroupNorm needs statistics over the whole clip. Slices that exchange their edge
frames and sum their statistics therefore give the result of a whole decode. The slices may all be
in one process, to save memory, or be shared among several; a `Seam` connects a process to the
others.

A slice is (1, n, H, W, C), n frames. Between two layers, one tensor per slice is kept; what a layer
computes on the way exists for one slice at a time. With one frame per slice, no bit of the result
depends on the number of processes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from svd_engine.group_norm import GroupNorm, apply_factors, group_sums
from svd_engine.layers import Blend, SpatioTemporalResBlock, TemporalConv
from svd_engine.vae import VAE


class Seam(Protocol):
    """Connects the slices in this process to those in other processes."""

    def edges(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Send the first and last frame (1, 1, H, W, C); receive the frames before and after them.

        A received frame is None at the beginning or the end of the clip.
        """

    def sum(self, statistics: Tensor) -> Tensor:
        """Sum the statistics of this process's frames (n, ...) over the whole clip (...)."""


class NoSeam:
    """The seam of a clip that is all in this process."""

    def edges(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ARG002
        return None, None

    def sum(self, statistics: Tensor) -> Tensor:
        return statistics.sum(dim=0)


@torch.no_grad()
def decode_slices(
    vae: VAE, latents: Tensor, slices: int | None = None, seam: Seam | None = None
) -> Tensor:
    """Decode unscaled latents (F, C, h, w) to frames (F, 3, H, W) in [-1, 1].

    latents: of the whole clip, or of this process's part of it.
    slices: how many to cut them into, whose lengths differ by at most one frame. None, or more than
    there are frames, means one slice for each frame.
    """
    seam, decoder = seam or NoSeam(), vae.decoder
    frames = latents.movedim(1, -1)[None].contiguous()
    parts = list(frames.tensor_split(min(slices or len(latents), len(latents)), dim=1))
    of_frames: list[Callable[[Tensor], Tensor]] = []  # layers that do not mix frames, not yet run
    for layer in decoder.layers():
        if isinstance(layer, SpatioTemporalResBlock):
            _each([*of_frames, layer.spatial_res_block], parts)
            _mix(layer, parts, seam)
            of_frames = []
        else:
            of_frames.append(layer)
    _each([*of_frames, decoder.head], parts)
    _convolve(decoder.time_conv_out, parts, seam, lambda frames: frames)
    return torch.cat(parts, dim=1)[0].movedim(-1, 1).contiguous()


def _each(layers: Sequence[Callable[[Tensor], Tensor]], parts: list[Tensor]) -> None:
    """Run layers that do not mix frames, slice by slice."""
    for number in range(len(parts)):
        x = parts[number]
        for layer in layers:
            x = layer(x)
        parts[number] = x


def _mix(block: SpatioTemporalResBlock, parts: list[Tensor], seam: Seam) -> None:
    """Run the temporal half of a block, and blend it with the spatial half, which is in `parts`."""
    temporal, hidden = block.temporal_res_block, list(parts)
    _convolve(temporal.conv1, hidden, seam, _norm_of(temporal.norm1, hidden, seam))
    normed = _norm_of(temporal.norm2, hidden, seam)
    _convolve(temporal.conv2, hidden, seam, normed, blend=(parts, block.time_mixer))
    parts[:] = hidden


def _norm_of(norm: GroupNorm, parts: Sequence[Tensor], seam: Seam) -> Callable[[Tensor], Tensor]:
    """A function that normalizes frames by the clip's statistics and applies SiLU."""
    sums = torch.cat([group_sums(part[0].flatten(1, 2)) for part in parts])
    factors = norm.factors(seam.sum(sums)[None])

    def normed(frames: Tensor) -> Tensor:
        return apply_factors(frames.flatten(1, 3), factors, norm.silu).view_as(frames)

    return normed


def _convolve(
    conv: TemporalConv,
    parts: list[Tensor],
    seam: Seam,
    prepare: Callable[[Tensor], Tensor],
    blend: tuple[list[Tensor], Blend] | None = None,
) -> None:
    """Replace each slice by a temporal convolution of it and of the frames beside it.

    prepare: applied to frames before they are convolved.
    blend: the spatial branch's slices, which the results are blended with. They are freed.
    """
    for number, (before, here, after) in enumerate(_windows(parts, seam, prepare)):
        around = (x if x is None else x.flatten(2, 3) for x in (before, after))
        of_slice = None
        if blend is not None:
            of_slice = blend[0][number].flatten(2, 3), blend[1]
            blend[0][number] = parts[number]
        y = conv(here.flatten(2, 3), True, *around, of_slice)
        parts[number] = y.view(*here.shape[:-1], y.shape[-1])


def _windows(
    parts: list[Tensor], seam: Seam, prepare: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor | None, Tensor, Tensor | None]]:
    """Yield each prepared slice between the frames before and after it, None beyond the clip.

    A slice may be replaced once its window has been yielded.
    """
    before, after = seam.edges(parts[0][:, :1], parts[-1][:, -1:])
    last = None if before is None else prepare(before)
    ready: Tensor | None = None  # a slice of one frame, prepared for the window before
    for number, part in enumerate(parts):
        here = prepare(part) if ready is None else ready
        if number + 1 < len(parts):
            following: Tensor | None = prepare(parts[number + 1][:, :1].contiguous())
            ready = following if parts[number + 1].shape[1] == 1 else None
        else:
            following = None if after is None else prepare(after)
        yield last, here, following
        last = here[:, -1:]
