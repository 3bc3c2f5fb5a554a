"""The whole decode's result without the whole clip in one place: in slices of frames.

Two layers of the decoder mix frames. A temporal convolution needs one frame from each neighbour; a
temporal GroupNorm needs its statistics over the clip. So slices that exchange edge frames and sum
their statistics give what a whole decode gives. Slices may be all in one process, to save memory,
or in several, a part in each: what is not here is behind a `Seam`.

A slice is (n, C, H, W), n frames. Between two layers there is one tensor of each, as in a whole
decode there is one of the clip; what a layer makes on the way is there for one slice at a time.
With a frame in each slice no bit of the result depends on the number of processes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.config import GROUPS
from svd_engine.layers import SpatioTemporalResBlock, TemporalConv, clip_view, frame_view
from svd_engine.vae import VAE


class Seam(Protocol):
    """What joins the slices that are here to those that are elsewhere."""

    def edges(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Give away the first and the last frame (1, C, H, W); the one before, the one after.

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
    parts = list(latents.tensor_split(min(slices or len(latents), len(latents))))
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
    return torch.cat(parts)


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
    for norm, conv in ((temporal.norm1, temporal.conv1), (temporal.norm2, temporal.conv2)):
        _convolve(conv, hidden, seam, _norm_of(norm, hidden, seam))
    for number, x in enumerate(parts):
        parts[number] = block.time_mixer(x, x + hidden[number])
        hidden[number] = parts[number]


def _norm_of(norm: nn.GroupNorm, parts: Sequence[Tensor], seam: Seam) -> Callable[[Tensor], Tensor]:
    """A group norm by the clip's statistics, and SiLU. In float32, a frame at a time."""
    count, total, squares = seam.sum(torch.stack([_sums(f) for part in parts for f in part]))
    mean = total / count
    spread = (squares / count - mean.square()).clamp_min(0) + norm.eps
    each = norm.num_channels // GROUPS
    mean, spread = (x.repeat_interleave(each)[:, None, None] for x in (mean, spread))
    scale = norm.weight.double()[:, None, None] * spread.rsqrt()
    shift = (norm.bias.double()[:, None, None] - mean * scale).float()
    scale = scale.float()

    def normed(frames: Tensor) -> Tensor:
        made = torch.empty_like(frames)
        for frame, into in zip(frames, made, strict=True):
            into.copy_(F.silu(torch.addcmul(shift, frame.float(), scale), inplace=True))
        return made

    return normed


def _sums(frame: Tensor) -> Tensor:
    """How many values each group of a frame (C, H, W) has, their sum, and that of squares: (3, G).

    In float64: what is summed over a clip is large beside its spread.
    """
    x = frame.reshape(GROUPS, -1).float()
    total = x.sum(dim=1, dtype=torch.float64)
    squares = x.square().sum(dim=1, dtype=torch.float64)
    return torch.stack([torch.full_like(total, x.shape[1]), total, squares])


def _convolve(
    conv: TemporalConv,
    parts: list[Tensor],
    seam: Seam,
    prepare: Callable[[Tensor], Tensor],
) -> None:
    """A temporal convolution of what is prepared of each slice, and of the frames beside it."""
    height, width = parts[0].shape[-2:]
    for number, window in enumerate(_windows(parts, seam, prepare)):
        y = F.conv2d(window, conv.weight.squeeze(-1), conv.bias)
        parts[number] = frame_view(y, height, width).contiguous()


def _windows(
    parts: list[Tensor], seam: Seam, prepare: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """Each slice with the frame before and the one after (1, C, n + 2, L): zeros beyond the clip.

    A slice may be replaced once its window is there.
    """
    before, after = seam.edges(parts[0][:1], parts[-1][-1:])
    nothing = torch.zeros_like(parts[0][:1])
    last = nothing if before is None else prepare(before)
    ready: Tensor | None = None  # the slice, where it is but a frame that was looked at before
    for number, part in enumerate(parts):
        here = prepare(part) if ready is None else ready
        if number + 1 < len(parts):
            following = prepare(parts[number + 1][:1])
            ready = following if len(parts[number + 1]) == 1 else None
        else:
            following = nothing if after is None else prepare(after)
        yield torch.cat([clip_view(x, len(x)) for x in (last, here, following)], dim=2)
        last = here[-1:].clone()
