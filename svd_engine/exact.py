"""The whole decode's result without the whole clip in one place: in slices of frames.

Two layers of the decoder mix frames. A temporal convolution needs one frame from each neighbour; a
temporal GroupNorm needs its statistics over the clip. So slices that exchange edge frames and sum
their statistics give what a whole decode gives. Slices may be all in one process, to save memory,
or in several, a part in each: what is not here is behind a `Seam`.

A slice is (1, n, H, W, C), n frames. Between two layers there is one tensor of each, as in a whole
decode there is one of the clip; what a layer makes on the way is there for one slice at a time.
With a frame in each slice no bit of the result depends on the number of processes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from svd_engine.group_norm import GroupNorm, apply_factors, group_sums
from svd_engine.layers import Blend, SpatioTemporalResBlock, TemporalConv
from svd_engine.vae import VAE


class Seam(Protocol):
    """What joins the slices that are here to those that are elsewhere."""

    def edges(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Give away the first and the last frame (1, 1, H, W, C); the one before, the one after.

        None where the clip begins, or ends.
        """

    def sum(self, statistics: Tensor) -> Tensor:
        """Statistics of each frame that is here (n, ...) to their sum over the clip (...)."""


class NoSeam:
    """The clip is all here."""

    def edges(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ARG002
        return None, None

    def sum(self, statistics: Tensor) -> Tensor:
        return statistics.sum(dim=0)


@torch.no_grad()
def decode_slices(
    vae: VAE, latents: Tensor, slices: int | None = None, seam: Seam | None = None
) -> Tensor:
    """Unscaled latents (F, C, h, w) to frames (F, 3, H, W) in [-1, 1].

    They are those of the clip, or of the part of it that is here. slices: of these; None is one for
    each frame, and so are more. Uneven ones differ by one frame.
    """
    seam, decoder = seam or NoSeam(), vae.decoder
    frames = latents.movedim(1, -1)[None].contiguous()
    parts = list(frames.tensor_split(min(slices or len(latents), len(latents)), dim=1))
    of_frames: list[Callable[[Tensor], Tensor]] = []  # layers that do not mix frames
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
    """The temporal half of a block, and its blend with the spatial half, which is in `parts`."""
    temporal, hidden = block.temporal_res_block, list(parts)
    _convolve(temporal.conv1, hidden, seam, _norm_of(temporal.norm1, hidden, seam))
    normed = _norm_of(temporal.norm2, hidden, seam)
    _convolve(temporal.conv2, hidden, seam, normed, blend=(parts, block.time_mixer))
    parts[:] = hidden


def _norm_of(norm: GroupNorm, parts: Sequence[Tensor], seam: Seam) -> Callable[[Tensor], Tensor]:
    """A group norm by the clip's statistics, and SiLU."""
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
    """A temporal convolution of what is prepared of each slice, and of the frames beside it.

    blend: the spatial branch's slices, with which the results are blended; they are let go.
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
    """Each slice with the frame before and the one after, None beyond the clip.

    A slice may be replaced once its window is there.
    """
    before, after = seam.edges(parts[0][:, :1], parts[-1][:, -1:])
    last = None if before is None else prepare(before)
    ready: Tensor | None = None  # the slice, where it is but a frame that was looked at before
    for number, part in enumerate(parts):
        here = prepare(part) if ready is None else ready
        if number + 1 < len(parts):
            following: Tensor | None = prepare(parts[number + 1][:, :1].contiguous())
            ready = following if parts[number + 1].shape[1] == 1 else None
        else:
            following = None if after is None else prepare(after)
        yield last, here, following
        last = here[:, -1:]
