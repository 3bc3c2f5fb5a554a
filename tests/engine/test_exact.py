"""The exact decode in slices and over processes, compared with a whole decode and diffusers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from svd_engine import stages
from svd_engine.config import VAEConfig
from svd_engine.exact import decode_slices
from svd_engine.sharded import share_of
from svd_engine.vae import VAE
from tests.support.ports import free_ports
from tests.support.reference import randomize, relative_difference

TOLERANCE = 2e-5
WIDTHS = {
    "narrow": {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1},
    "published-depth": {"block_out_channels": (32, 64, 96, 96), "layers_per_block": 2},
    "deep": {"block_out_channels": (64, 32, 64, 32), "layers_per_block": 3},
}
names = pytest.mark.parametrize("name", WIDTHS)


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    made = {}
    for name, widths in WIDTHS.items():
        torch.manual_seed(len(name))
        blocks = ("DownEncoderBlock2D",) * 4
        made[name] = randomize(AutoencoderKLTemporalDecoder(down_block_types=blocks, **widths))
        with torch.no_grad():  # as of a trained one, most of what it gives is within [-1, 1]
            for parameter in made[name].decoder.conv_out.parameters():
                parameter.mul_(0.4)
    return made


@pytest.fixture(scope="module")
def vaes(theirs: dict[str, Any]) -> dict[str, VAE]:
    made = {}
    for name, vae in theirs.items():
        ours = VAE(VAEConfig.model_validate(dict(vae.config))).eval()
        ours.load_state_dict(vae.state_dict())
        made[name] = ours
    return made


def draw_latents(frames: int, height: int = 7, width: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(frames, 4, height, width, generator=generator)


def levels_off(ours: Tensor, theirs: Tensor) -> Tensor:
    return (stages.to_uint8(ours).int() - stages.to_uint8(theirs).int()).abs().flatten()


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        *((name, (1, 2, 5)) for name in WIDTHS),
        ("narrow", (9, 25)),
        pytest.param("published-depth", (9, 25), marks=pytest.mark.slow),
        pytest.param("deep", (9, 25), marks=pytest.mark.slow),
    ],
)
def test_slices_against_whole_and_diffusers(
    name: str, counts: tuple[int, ...], vaes: dict[str, VAE], theirs: dict[str, Any]
) -> None:
    off = []
    for frames in counts:
        latents = draw_latents(frames)
        with torch.no_grad():
            whole = vaes[name].decode(latents)
            reference = theirs[name].decode(latents, num_frames=frames).sample
        for slices in (None, 2, 4):
            sliced = decode_slices(vaes[name], latents, slices)
            for other in (whole, reference):
                assert relative_difference(sliced, other) <= TOLERANCE
                off.append(levels_off(sliced, other))
    levels = torch.cat(off)
    assert levels.max() <= 1
    assert (levels == 0).float().mean() >= 0.9999


@names
def test_half_precision_is_no_further_off_than_whole(name: str, vaes: dict[str, VAE]) -> None:
    latents = draw_latents(3)
    with torch.no_grad():
        exact = vaes[name].decode(latents)
        half = VAE(vaes[name].config).eval()
        half.load_state_dict(vaes[name].state_dict())
        half.to(torch.bfloat16)
        whole = half.decode(latents.bfloat16())
    sliced = decode_slices(half, latents.bfloat16())
    assert sliced.dtype == torch.bfloat16
    distances = [(x.float() - exact).square().mean().sqrt() for x in (sliced, whole)]
    assert distances[0] <= 1.1 * distances[1]


@pytest.mark.parametrize(("frames", "size"), [(25, 4), (25, 3), (5, 5), (1, 1), (9, 2)])
def test_shares_are_the_clip(frames: int, size: int) -> None:
    shares = [share_of(frames, rank, size) for rank in range(size)]
    assert [i for start, stop in shares for i in range(start, stop)] == list(range(frames))
    lengths = [stop - start for start, stop in shares]
    assert max(lengths) - min(lengths) <= 1


def test_slices_are_of_a_clip_that_is_decoded_as_one(vaes: dict[str, VAE]) -> None:
    with pytest.raises(ValueError, match="leave out decode_chunk_size"):
        stages.decode(vaes["narrow"], draw_latents(4), chunk_size=2, slices=2)


def free_address() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


def start(folder: Path, rank: int, size: int, address: str, *more: str) -> Any:
    arguments = [str(folder), str(rank), str(size), address, *more]
    command = [sys.executable, "-m", "tests.support.gang_member", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def folder(tmp_path: Path, vaes: dict[str, VAE]) -> Path:
    vae = vaes["published-depth"]
    torch.save((vae.config, vae.state_dict(), draw_latents(5)), tmp_path / "given.pt")
    return tmp_path


@pytest.mark.parametrize(
    "size", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 4))]
)
def test_processes_make_the_same_bits(size: int, folder: Path, vaes: dict[str, VAE]) -> None:
    address = free_address()
    members = [start(folder, rank, size, address) for rank in range(size)]
    for member in members:
        _, output = member.communicate(timeout=120)
        assert member.returncode == 0, output
    shares = [torch.load(folder / f"share-{rank}.pt") for rank in range(size)]
    alone = decode_slices(vaes["published-depth"], draw_latents(5))
    assert torch.equal(torch.cat(shares), alone)


def test_a_member_that_is_gone_is_an_error_for_the_others(folder: Path) -> None:
    address = free_address()
    members = [start(folder, 0, 3, address), start(folder, 1, 3, address)]
    members.append(start(folder, 2, 3, address, "dies"))
    outputs = [member.communicate(timeout=120)[1] for member in members]
    assert [member.returncode for member in members] == [1, 1, -9]
    for output in outputs[:2]:
        assert "the decode's other processes are gone or too late" in output


def test_a_member_that_never_comes_is_waited_for_no_longer_than_said(folder: Path) -> None:
    member = start(folder, 0, 2, free_address(), "alone")
    _, output = member.communicate(timeout=60)
    assert (member.returncode, "did not come within 3 s" in output) == (1, True)
