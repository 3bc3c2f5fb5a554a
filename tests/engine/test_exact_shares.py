"""The exact decode of a small clip, cut and shared in any way, compared with a whole decode."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from svd_engine.config import VAEConfig
from svd_engine.exact import NoSeam, decode_slices
from svd_engine.vae import VAE, TemporalDecoder
from tests.support.reference import randomize, relative_difference

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(5)
    config = VAEConfig(
        block_out_channels=(32, 64, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4
    )
    return randomize(VAE(config))


def draw_latents(frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(frames, 4, 3, 2, generator=generator)


def whole(vae: VAE, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return vae.decode(latents)


class Meeting:
    """Where processes, which are threads here, leave tensors for each other."""

    def __init__(self, size: int) -> None:
        self._barrier = Barrier(size, timeout=30)
        self._left: dict[int, tuple[Tensor, ...]] = {}

    def abort(self) -> None:
        self._barrier.abort()

    def exchange(self, rank: int, *tensors: Tensor) -> dict[int, tuple[Tensor, ...]]:
        self._left[rank] = tensors
        self._barrier.wait()
        found = dict(self._left)
        self._barrier.wait()
        return found


class ThreadSeam:
    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting, self._rank = meeting, rank

    def edges(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:
        assert first.shape[:2] == last.shape[:2] == (1, 1)
        found = self._meeting.exchange(self._rank, first.clone(), last.clone())
        before, after = found.get(self._rank - 1), found.get(self._rank + 1)
        return before[1] if before else None, after[0] if after else None

    def sum(self, statistics: Tensor) -> Tensor:
        found = self._meeting.exchange(self._rank, statistics)
        return torch.cat([found[rank][0] for rank in sorted(found)]).sum(dim=0)


def shared(vae: VAE, latents: Tensor, lengths: list[int], slices: int | None) -> Tensor:
    """Decode a clip in several threads, of which each has so many frames."""
    meeting = Meeting(len(lengths))

    def share(rank: int, part: Tensor) -> Tensor:
        try:
            return decode_slices(vae, part, slices, ThreadSeam(meeting, rank))
        except BaseException:
            meeting.abort()  # the others would wait for it
            raise

    with ThreadPoolExecutor(len(lengths)) as threads:
        return torch.cat(list(threads.map(share, range(len(lengths)), latents.split(lengths))))


@settings(max_examples=15)
@given(frames=st.integers(1, 6), slices=st.none() | st.integers(1, 8))
@example(frames=5, slices=3)  # of 2, 2 and 1 frames
def test_slices_decode_to_the_whole(frames: int, slices: int | None, vae: VAE) -> None:
    latents = draw_latents(frames)
    made = decode_slices(vae, latents, slices)
    assert made.is_contiguous()
    assert made.shape == (frames, 3, 24, 16)
    assert relative_difference(made, whole(vae, latents)) <= TOLERANCE


def test_a_clip_of_one_row_of_latents_is_cut_by_frames_as_well(vae: VAE) -> None:
    latents = draw_latents(4)[:, :, :1]
    made = decode_slices(vae, latents, 2)
    assert relative_difference(made, whole(vae, latents)) <= TOLERANCE


@pytest.mark.parametrize("lengths", [[1, 1], [3, 1], [1, 2, 2]])
@pytest.mark.parametrize("slices", [None, 1, 2])
def test_shares_decode_to_the_whole(lengths: list[int], slices: int | None, vae: VAE) -> None:
    latents = draw_latents(sum(lengths))
    made = shared(vae, latents, lengths, slices)
    assert relative_difference(made, whole(vae, latents)) <= TOLERANCE
    if slices is None:
        assert torch.equal(made, decode_slices(vae, latents))


def test_a_clip_is_cut_evenly_and_never_into_more_slices_than_frames(
    vae: VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    head = type(vae.decoder).head

    def watched(decoder: TemporalDecoder, x: Tensor) -> Tensor:
        seen.append(x.shape[1])
        return head(decoder, x)

    monkeypatch.setattr(type(vae.decoder), "head", watched)
    for slices, lengths in ((None, [1] * 5), (9, [1] * 5), (2, [3, 2]), (1, [5])):
        seen.clear()
        decode_slices(vae, draw_latents(5), slices)
        assert seen == lengths


def test_no_gradient_is_kept(vae: VAE) -> None:
    assert not decode_slices(vae, draw_latents(2).requires_grad_()).requires_grad


def test_without_other_processes_nothing_is_exchanged() -> None:
    frame = torch.ones(1, 1, 2, 2, 3)
    assert NoSeam().edges(frame, frame) == (None, None)
    assert NoSeam().sum(torch.tensor([[1.0, 2.0], [3.0, 5.0]])).tolist() == [4.0, 7.0]
