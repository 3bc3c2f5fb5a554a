"""`python -m tests.decode_report [seams.png]`: measure quality and cost of the exact decode.

Prints the seams between diffusers' chunks and those of the exact decode; the peak memory above the
weights, whole and in slices; and the times over several processes, with the bytes that they
exchange and how long the exchange would take at full size.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from svd_engine import stages
from svd_engine.config import VAEConfig
from svd_engine.sharded import decode_share, join_gang
from svd_engine.vae import VAE
from tests.report import table
from tests.support.ports import free_ports
from tests.support.reference import randomize

WIDTHS = {
    "block_out_channels": (64, 128, 128, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
}
FRAMES, SIDE, CHUNK = 25, 20, 5  # SIDE is that of the latents
MB = 2**20
# Bytes per second in one direction between two neighbours.
LINKS = {"NVLink": 450e9, "PCIe 4.0 x16": 25e9, "100 Gb/s Ethernet": 11e9}
# The published decoder's blocks: channels, side as a fraction of the picture's, and number. Each
# block has two temporal convolutions; one more follows at the end.
PUBLISHED = [(512, 8, 2), (512, 8, 3), (512, 4, 3), (256, 2, 3), (128, 1, 3)]


def make_vae() -> VAE:
    torch.manual_seed(0)
    vae: VAE = randomize(VAE(VAEConfig.model_validate(WIDTHS)))
    return vae


def draw_latents() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    still = torch.randn(1, 4, SIDE, SIDE, generator=generator)
    moves = torch.randn(FRAMES, 4, SIDE, SIDE, generator=generator)
    return still + 0.2 * moves.cumsum(0) / FRAMES**0.5  # each frame resembles its neighbours


def seams(plot: str | None) -> list[list[str]]:
    """The difference between neighbouring frames at chunk edges, divided by that elsewhere."""
    vae, latents = make_vae(), draw_latents()
    ways = {
        f"diffusers' chunks of {CHUNK}": stages.decode(vae, latents, CHUNK),
        "exact": stages.decode(vae, latents),
    }
    rows, lines = [], {}
    for name, frames in ways.items():
        steps = (frames[1:] - frames[:-1]).square().mean(dim=(1, 2, 3)).sqrt()
        at = torch.arange(1, FRAMES)
        inside = (at > CHUNK // 2) & (
            at < FRAMES - CHUNK // 2
        )  # without the clip's ends, which differ
        edge = at % CHUNK == 0
        ratio = steps[edge & inside].mean() / steps[~edge & inside].mean()
        rows.append([name, f"{ratio:.2f}"])
        lines[name] = steps.tolist()
    if plot:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
        for name, values in lines.items():
            axes.plot(range(1, FRAMES), values, marker="o", label=name)
        axes.set(xlabel="frame", ylabel="RMS difference to the frame before", ylim=0)
        axes.legend()
        figure.savefig(plot, dpi=110)
    return rows


def memory_of(slices: str) -> float:
    """The peak memory of a decoding process in MB, above what it used before."""
    code = f"from tests.decode_report import _peak; _peak({slices})"
    # By default glibc keeps freed blocks of this size; here they are to be returned.
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def _peak(slices: int | None) -> None:
    vae, latents = make_vae(), draw_latents()
    stages.decode(vae, latents[:2, :, :8, :8], slices=slices)  # warm up: loads kernels
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _status("VmRSS")
    stages.decode(vae, latents, slices=slices)
    print((_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    """A field of this process's /proc/self/status, in KB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def times(sizes: tuple[int, ...] = (1, 2, 4)) -> list[list[str]]:
    """Time a decode over several processes with as many threads in total.

    Returns also the bytes that each process sends.
    """
    rows = []
    for size in sizes:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        threads = max(1, torch.get_num_threads() // size)
        command = "from tests.decode_report import _share; _share({}, {}, {!r}, {})"
        members = [
            subprocess.Popen(
                [sys.executable, "-c", command.format(rank, size, address, threads)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        output = [member.communicate()[0].split() for member in members]
        seconds = max(float(words[0]) for words in output)
        most = max(int(words[1]) for words in output)
        rows.append([f"{size} of {threads} threads", f"{seconds:.1f} s", f"{most / MB:.1f} MB"])
    return rows


def _share(rank: int, size: int, address: str, threads: int) -> None:
    torch.set_num_threads(threads)
    vae, latents = make_vae(), draw_latents()
    with join_gang(rank, size, FRAMES, address, torch.device("cpu"), 120.0) as gang:
        spent = []
        for _ in range(3):
            began, gang.bytes = time.perf_counter(), 0
            decode_share(vae, latents, gang)
            spent.append(time.perf_counter() - began)
        print(statistics.median(spent[1:]), gang.bytes)


def full_size() -> list[list[str]]:
    """What a process with two neighbours sends to each at 576 x 1024, and how long that takes."""
    height, width, itemsize = 576, 1024, 2
    pixels = height * width
    edges = sum(2 * n * c * pixels // share**2 for c, share, n in PUBLISHED) + 3 * pixels
    given = edges * itemsize
    # What is held is twice the widest tensor; on the way there are a few frames of twice its width.
    held = 2 * FRAMES * 128 * pixels * itemsize / 1e9
    passing = 4 * 256 * pixels * itemsize / 1e9
    print(f"{FRAMES} frames of 576 x 1024 hold {held:.1f} GB, and {passing:.1f} GB on the way\n")
    return [
        [name, f"{given / MB:.0f} MB", f"{given / rate * 1e3:.0f} ms"]
        for name, rate in LINKS.items()
    ]


if __name__ == "__main__":
    plot = sys.argv[1] if len(sys.argv) > 1 else None
    print(table(["difference at chunks' edges over elsewhere", "ratio"], seams(plot)), "\n")
    whole = memory_of("1")
    rows = [["whole", f"{whole:.0f} MB", ""]]
    for name, slices in (("5 slices", "5"), ("a frame at a time", "None")):
        peak = memory_of(slices)
        rows.append([name, f"{peak:.0f} MB", f"{peak / whole:.0%}"])
    size = f"{FRAMES} frames of {8 * SIDE} x {8 * SIDE}, float32"
    print(table([f"peak above the weights, {size}", "", "of the whole's"], rows), "\n")
    print(table(["processes", "time", "each gives away"], times()), "\n")
    print(table(["576 x 1024, half precision", "to each neighbour", "on the link"], full_size()))
