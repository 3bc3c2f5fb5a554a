"""Explains what would fit when a task ran out of GPU memory. Pure: a plan says what it needs."""

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass

from farm.model.plan import Stage
from farm.model.task_order import Order
from svd_engine.params import RenderParams
from svd_engine.sizes import largest_side

GIB = 2**30
MARGIN = 0.9  # the usable share of a GPU's memory; fragments and the driver take the rest
PARTS = 32  # of a side, in which smaller sizes are tried


@dataclass(frozen=True)
class Gpu:
    """The GPU that a task ran on."""

    needs: Callable[[Stage, RenderParams], int]  # bytes of a stage, with its networks
    total: int  # bytes
    others: int = 0  # bytes of networks on it that the task does not use

    @property
    def room(self) -> int:
        """The bytes that a stage may use."""
        return int(MARGIN * self.total) - self.others


def what_fits(order: Order, gpu: Gpu | None) -> str:
    """Say what ran out, and what would fit. Without a known GPU, suggest half the frames."""
    params, stage = _worked_on(order), order.task.stage
    frames = params.num_frames or 0
    size = f"{params.width} x {params.height}"
    text = f"out of GPU memory at {stage} of {frames} frames of {size} in {order.request.dtype}"
    if order.low_memory:
        text += ", with everything else moved off the GPU"
    fits = frames // 2
    if gpu is not None:
        wanted = gpu.needs(stage, params) + gpu.others
        text += f" ({wanted / GIB:.1f} GiB wanted, {gpu.total / GIB:.1f} GiB there)"
        fits = 0 if stage is Stage.ENCODE else _most_frames(stage, params, gpu)
    if fits and stage is not Stage.ENCODE:
        name = "decode_chunk_size" if stage is Stage.DECODE else "num_frames"
        return f"{text}; about {fits} frames would fit: try {name}={fits}, or a smaller size"
    smaller = None if gpu is None else _largest_size(stage, params, gpu)
    return f"{text}; {smaller or 'a smaller width and height'} would fit, or a larger GPU"


def _worked_on(order: Order) -> RenderParams:
    """The parameters of the task's own work: a decode's frames count as a clip."""
    params, (start, stop) = order.request.params, order.task.span
    if order.task.stage is not Stage.DECODE:
        return params
    return params.model_copy(update={"num_frames": stop - start})


def _most_frames(stage: Stage, params: RenderParams, gpu: Gpu) -> int:
    """The most frames, or frames of a chunk for a decode, that fit; 0 if not even one does."""

    def needed(frames: int) -> int:
        chunk = frames if stage is Stage.DECODE else params.decode_chunk_size
        changes = {"num_frames": frames, "decode_chunk_size": chunk}
        return gpu.needs(stage, params.model_copy(update=changes))

    return bisect(range(1, params.num_frames or 0), gpu.room, key=needed)


def _largest_size(stage: Stage, params: RenderParams, gpu: Gpu) -> str | None:
    """The largest smaller size in the same proportions that fits; None if none does."""
    sides = params.width or 0, params.height or 0
    sizes = [[largest_side(side * part // PARTS) for side in sides] for part in range(1, PARTS)]

    def needed(size: list[int]) -> int:
        return gpu.needs(stage, params.model_copy(update={"width": size[0], "height": size[1]}))

    fits = bisect(sizes, gpu.room, key=needed)
    return "about {} x {}".format(*sizes[fits - 1]) if fits else None
