"""Triton kernels for CUDA: norms, sums, the gate, attention and convolutions along frames.

Each has a plain torch twin where it is used (`group_norm`, `layers`), which is what a CPU runs and
what the kernel is tested against. All arithmetic is in float32 and statistics are added up in
float64; only what is stored is in the tensors' own type. Shapes: N samples, L positions, C channels
last.
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
