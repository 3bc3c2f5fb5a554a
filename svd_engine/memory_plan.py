"""Plans how much memory each stage of a clip needs, before anything is loaded.

The stages themselves run, on networks and tensors on the `meta` device, which have shapes but no
memory, while `LiveBytes` counts the live tensors. A plan thus follows the code it describes, and no
formula has to be kept consistent with a layer.

A plan for CUDA follows the path of the Triton kernels, if Triton is installed, on a Hopper GPU.
Where GEGLU's kernel does not fit, its two products take twice as much. Like
`torch.cuda.max_memory_allocated`, a plan counts blocks of 512 bytes. It does not count the
workspaces of cuDNN's convolutions, memory that the caching allocator reserves but does not use, or
the memory of a CUDA graph (`optimize`). On a CPU it does not count oneDNN's own memory.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import torch

from svd_engine.live_bytes import Allocation, LiveBytes
from svd_engine.meta_stages import Shapes, StageName, prepare
from svd_engine.params import RenderParams
from svd_engine.stand_in import StandIn

CUDA_BLOCK = 512  # bytes, to a multiple of which PyTorch's allocator rounds up
CUBLAS = 2**25  # bytes of its workspace on Hopper; about a quarter of that on other GPUs
SHOWN = 5  # kinds of tensors that are listed for a peak


@dataclass(frozen=True)
class Alike:
    """Tensors of one shape, alive at a stage's peak, that the same call site allocated."""

    count: int
    bytes: int  # of all of them
    shape: tuple[int, ...]
    dtype: torch.dtype
    where: str  # the engine's call sites that allocated them, the innermost first


@dataclass(frozen=True)
class StageMemory:
    """The bytes that one stage needs, by purpose."""

    stage: StageName
    networks: tuple[tuple[str, int], ...]  # in use, with the bytes of their weights
    held: int  # of its inputs, such as the conditioning and the latents
    activations: int  # of the tensors it computes, at the peak
    largest: tuple[Alike, ...]  # kinds of activations at the peak, the largest first

    @property
    def weights(self) -> int:
        """The bytes of all networks that it computes with."""
        return sum(size for _, size in self.networks)

    @property
    def total(self) -> int:
        """What the stage needs if no other network is on the device."""
        return self.weights + self.held + self.activations


@dataclass(frozen=True)
class MemoryPlan:
    """The bytes that a clip needs on a device."""

    device: str
    dtype: torch.dtype
    stages: tuple[StageMemory, ...]

    @property
    def weights(self) -> int:
        """The bytes of all networks."""
        return sum(dict(pair for stage in self.stages for pair in stage.networks).values())

    @property
    def peak(self) -> int:
        """The most that any stage needs, with all networks on the device."""
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
    """Plan a clip's memory on a device, which need not exist.

    slices: how many to decode in; see `exact.decode_slices`.
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
    """Plan one stage; see `memory_plan`. Plans are cached."""
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
    alive = [allocation for allocation in counted.at_peak() if allocation.made >= first]
    libraries = CUBLAS if device == "cuda" else 0
    activations = counted.peak - start + libraries
    return StageMemory(stage, tuple(weights.items()), held, activations, _largest(alive))


def _largest(alive: list[Allocation]) -> tuple[Alike, ...]:
    alike: dict[tuple[Any, ...], list[int]] = {}
    for each in alive:
        alike.setdefault((each.shape, each.dtype, each.where), []).append(each.bytes)
    groups = (Alike(len(sizes), sum(sizes), *key) for key, sizes in alike.items())
    return tuple(sorted(groups, key=lambda group: -group.bytes)[:SHOWN])
