"""Triton kernels for CUDA: norms, sums, the gate, attention and convolutions along frames.

Each kernel has an equivalent in plain torch at its call site (`group_norm`, `layers`), which runs
on CPUs and which the kernel is tested against. Arithmetic is in float32 and statistics are summed
in float64; results are stored in the tensors' own type.

Shapes: N samples, L positions, C channels last.
"""

from svd_engine.kernels.attention import MAX_FRAMES, attend_frames
from svd_engine.kernels.norms import add_, apply_factors, factors, group_sums, layer_norm
from svd_engine.kernels.products import convolve_frames, gate_, geglu, geglu_fits

__all__ = [
    "MAX_FRAMES",
    "add_",
    "apply_factors",
    "attend_frames",
    "convolve_frames",
    "factors",
    "gate_",
    "geglu",
    "geglu_fits",
    "group_sums",
    "layer_norm",
]
