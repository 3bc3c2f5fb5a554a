"""What to say when a task does not fit a GPU."""

import re

from farm.order import Order
from farm.plan import Stage

GIB = 2**30
MARGIN = 0.9  # of the memory that is free: fragments, and the driver's own


def what_fits(order: Order, error: str, total: int = 0, weights: int = 0, peak: int = 0) -> str:
    """Say what ran out, and what would fit. Memory beside the weights grows with the frames.

    error: torch's message; total, weights, peak: bytes of the GPU, of the networks on it, and of
    the most that was allocated; 0 where nothing is known, which is answered with half the frames.
    """
    params, stage = order.request.params, order.task.stage
    start, stop = order.task.span
    assert params.num_frames is not None
    frames = stop - start if stage is Stage.DECODE else params.num_frames
    size = f"{params.width} x {params.height}"
    text = f"out of GPU memory at {stage} of {frames} frames of {size} in {order.request.dtype}"
    if order.lean:
        text += ", with everything else moved off the GPU"
    fits = frames // 2
    if total and peak > weights:
        wanted = peak + _asked_for(error) - weights
        fits = min(frames - 1, int(frames * MARGIN * (total - weights) / wanted))
        text += f" ({(wanted + weights) / GIB:.1f} GiB wanted, {total / GIB:.1f} GiB there)"
    if stage is Stage.ENCODE or fits < 1:
        return f"{text}; a smaller width and height would fit, or a larger GPU"
    name = "decode_chunk_size" if stage is Stage.DECODE else "num_frames"
    return f"{text}; about {fits} frames would fit: try {name}={fits}, or a smaller size"


def _asked_for(error: str) -> int:
    """The bytes of the allocation that failed, of "Tried to allocate 2.00 GiB"."""
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": GIB}
    found = re.search(r"allocate ([\d.]+) (KiB|MiB|GiB)", error)
    return int(float(found[1]) * units[found[2]]) if found else 0
