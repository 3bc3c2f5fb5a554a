"""Compile for a Hopper GPU, without one, every kernel that a step, an encode and a decode launch.

    TRITON_INTERPRET=0 python -m tests.compile_kernels [PRESET]

The networks run on tensors on `meta`, as they would on CUDA, and what they would launch is compiled
for compute capability 9.0. Prints each kernel with its warps and shared memory.
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F
import triton
from triton.backends.compiler import GPUTarget

from svd_engine import group_norm, layers, transformer
from svd_engine.bench.networks import PRESETS
from svd_engine.checkpoint import lay_out
from svd_engine.exact import decode_slices
from svd_engine.kernels.launch import Kernel
from svd_engine.unet import UNet
from svd_engine.vae import VAE

HOPPER = GPUTarget("cuda", 90, 32)
SHARED = 227 * 1024  # bytes that a block may have there


class Driver:
    """What Triton asks of a GPU's driver to compile, and no more."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def on_kernels(x: torch.Tensor) -> bool:
    return x.dtype != torch.float64


def channels_last(convolution: Any) -> Any:
    """A convolution that leaves its result as cuDNN does; on `meta` it would be channels first."""

    def convolve(*args: Any, **options: Any) -> torch.Tensor:
        return convolution(*args, **options).contiguous(memory_format=torch.channels_last)

    return convolve


def main(preset: str = "svd-xt") -> int:
    compiled: dict[str, Any] = {}

    def launch(kernel: Kernel, grid: Any) -> Any:
        def compile_it(*args: Any, **options: Any) -> None:
            binary = kernel.function.run(*args, grid=grid, warmup=True, **options)
            compiled[f"{kernel.name} {binary.hash[:8]}"] = binary

        return compile_it

    triton.runtime.driver.set_active(Driver())  # type: ignore[arg-type]
    Kernel.__getitem__ = launch  # type: ignore[method-assign]
    for name in ("conv2d", "conv_transpose2d"):
        setattr(F, name, channels_last(getattr(F, name)))
    for module in (group_norm, layers, transformer):
        module.on_kernels = on_kernels
    run(PRESETS[preset])
    for name, binary in sorted(compiled.items()):
        shared = binary.metadata.shared
        print(f"{name:30} {binary.metadata.num_warps} warps, {shared:7} bytes shared")
        if shared > SHARED:
            print(f"{name} asks for more than the {SHARED} bytes there are")
            return 1
    return 0


@torch.no_grad()
def run(preset: Any) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            unet, vae = UNet(preset.unet_config), VAE(preset.vae_config)
            lay_out(unet)
            lay_out(vae)
            h, w, channels = preset.height // 8, preset.width // 8, unet.config.in_channels
            sample = torch.empty(2, preset.frames, channels, h, w)
            context = torch.empty(2, 1, unet.config.per_block("cross_attention_dim")[0])
            unet(sample, torch.empty((), dtype=torch.float32), context, torch.empty(2, 3))
            latents = torch.empty(preset.frames, vae.config.latent_channels, h, w)
            decode_slices(vae, latents, 5)
            decode_slices(vae, latents[:3])
            vae.decode(latents)
            vae.encode(torch.empty(1, 3, preset.height, preset.width))
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
