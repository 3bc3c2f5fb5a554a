"""Compile all kernels of a denoising step, an encode and a decode for a Hopper GPU, without one.

    TRITON_INTERPRET=0 python -m tests.compile_kernels [PRESET]

The networks run on `meta` tensors as they would on CUDA, and each kernel that they would launch is
compiled for compute capability 9.0. Prints each kernel with its warps and shared memory.
"""

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from svd_engine.bench.networks import PRESETS
from svd_engine.kernels.launch import Kernel
from svd_engine.meta_stages import StageName, prepare
from svd_engine.stand_in import StandIn

HOPPER = GPUTarget("cuda", 90, 32)
SHARED = 227 * 1024  # the bytes of shared memory that a block may use on that GPU
STAGES: list[tuple[StageName, int | None]] = [  # with the slices of the decode
    ("encode", None),
    ("denoise", None),
    ("decode", None),
    ("decode", 5),
    ("decode", 1),
]


class Driver:
    """The part of a GPU's driver that Triton needs to compile."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main(preset: str = "svd-xt") -> int:
    compiled: dict[str, Any] = {}

    def launch(kernel: Kernel, grid: Any) -> Any:
        def compile_it(*args: Any, **options: Any) -> None:
            binary = kernel.function.run(*args, grid=grid, warmup=True, **options)
            compiled[f"{kernel.name} {binary.hash[:8]}"] = binary

        return compile_it

    triton.runtime.driver.set_active(Driver())
    Kernel.__getitem__ = launch  # type: ignore[method-assign]
    shapes, params = PRESETS[preset].shapes, PRESETS[preset].params
    for stage, slices in STAGES:
        with torch.no_grad(), StandIn("cuda"):
            prepare(stage, shapes, params, torch.float16, slices).run()
    for name, binary in sorted(compiled.items()):
        shared = binary.metadata.shared
        print(f"{name:30} {binary.metadata.num_warps} warps, {shared:7} bytes shared")
        if shared > SHARED:
            print(f"{name} asks for more than the {SHARED} bytes there are")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
