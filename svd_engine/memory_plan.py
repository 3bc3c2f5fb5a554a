"""How much memory each stage of a clip needs, told before anything is loaded.

The stages themselves are run, on networks and tensors of the `meta` device, which have shapes and
no memory, while `LiveBytes` counts what is alive. So a plan follows the code that it is of: there
is no formula here to keep in step with a layer.

A plan of CUDA takes the path of Triton's kernels, where Triton is installed, as on a Hopper GPU:
where GEGLU's kernel does not fit, its two products take twice as much. It counts as
`torch.cuda.max_memory_allocated` does, in blocks of 512 bytes. Not counted are the workspaces of
cuDNN's convolutions, what the caching allocator reserves beyond what is allocated, and what a CUDA
graph (`optimize`) keeps for itself. On a CPU, oneDNN's own memory is not counted.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import torch

from svd_engine.live_bytes import Allocation, LiveBytes
from svd_engine.meta_stages import Shapes, StageName, prepare
from svd_engine.params import RenderParams
from svd_engine.stand_in import StandIn

CUDA_BLOCK = 512  # bytes that PyTorch's allocator rounds up to
CUBLAS = 2**25  # bytes of its workspace on Hopper; about a quarter on other GPUs
SHOWN = 5  # kinds of tensors that are told of a peak


@dataclass(frozen=True)
class Alike:
    """Tensors of a stage's peak that one line made, in one shape."""

    count: int
    bytes: int  # of all
    shape: tuple[int, ...]
    dtype: torch.dtype
    where: str  # the engine's functions that made them, the innermost first


@dataclass(frozen=True)
class StageMemory:
    """Bytes that one stage needs, and what they are for."""

    stage: StageName
    networks: tuple[tuple[str, int], ...]  # that it computes with, and their weights
    held: int  # of what it is given: the conditioning, the latents
    activations: int  # of what it makes, at most at once
    largest: tuple[Alike, ...]  # of the activations at that moment, those that take most first

    @property
    def weights(self) -> int:
        """Of all networks that it computes with."""
        return sum(size for _, size in self.networks)

    @property
    def total(self) -> int:
        """What it needs with no other network beside it."""
        return self.weights + self.held + self.activations


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a clip needs on a device."""

    device: str
    dtype: torch.dtype
    stages: tuple[StageMemory, ...]

    @property
    def weights(self) -> int:
        """Of all networks."""
        return sum(dict(pair for stage in self.stages for pair in stage.networks).values())

    @property
    def peak(self) -> int:
        """The most at any time, with all networks on the device."""
        return max(self.resident(stage) for stage in self.stages)

    def resident(self, stage: StageMemory) -> int:
        """What a stage needs, with all networks on the device."""
        return self.weights + stage.held + stage.activations


def memory_plan(
    shapes: Shapes,
    params: RenderParams,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    slices: int | None = None,
) -> MemoryPlan:
    """Plan a clip's memory on a device, which need not be there.

    slices: of the decode, see `exact.decode_slices`.
    Raises ValueError for params that cannot be rendered or are not resolved.
    """
    kind = torch.device(device).type
    planned = (
        plan_stage(shapes, params, stage, kind, dtype, slices) for stage in get_args(StageName)
    )
    return MemoryPlan(kind, dtype, tuple(planned))


def plan_stage(
    shapes: Shapes,
    params: RenderParams,
    stage: StageName,
    device: str,
    dtype: torch.dtype,
    slices: int | None = None,
) -> StageMemory:
    """Plan one stage; see `memory_plan`. Asked again, it is told from memory."""
    return _planned(shapes, params.model_copy(update={"seed": 0}), stage, device, dtype, slices)


@lru_cache(maxsize=256)
def _planned(
    shapes: Shapes,
    params: RenderParams,
    stage: StageName,
    device: str,
    dtype: torch.dtype,
    slices: int | None,
) -> StageMemory:
    networks, given, run = prepare(stage, shapes, params, dtype, slices)
    counted = LiveBytes("meta", CUDA_BLOCK if device == "cuda" else 1)
    weights: dict[str, int] = {}
    for name, network in networks.items():
        before = counted.now
        counted.count([*network.parameters(), *network.buffers()])
        weights[name] = counted.now - before
    before = counted.now
    counted.count(given)
    held, first, start = counted.now - before, len(counted.allocations), counted.now
    with torch.no_grad(), StandIn(device), counted:
        run()
    alive = [made for made in counted.at_peak() if made.made >= first]
    libraries = CUBLAS if device == "cuda" else 0
    activations = counted.peak - start + libraries
    return StageMemory(stage, tuple(weights.items()), held, activations, _largest(alive))


def _largest(alive: list[Allocation]) -> tuple[Alike, ...]:
    alike: dict[tuple[Any, ...], list[int]] = {}
    for made in alive:
        alike.setdefault((made.shape, made.dtype, made.where), []).append(made.bytes)
    groups = (Alike(len(sizes), sum(sizes), *key) for key, sizes in alike.items())
    return tuple(sorted(groups, key=lambda group: -group.bytes)[:SHOWN])
