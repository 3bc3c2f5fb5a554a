"""Prints a memory plan as a table: `python -m svd_engine memory`."""

from svd_engine.bench.networks import PRESETS
from svd_engine.checkpoint import open_checkpoint
from svd_engine.memory_plan import MemoryPlan, StageMemory
from svd_engine.meta_stages import Shapes
from svd_engine.params import RenderDefaults
from svd_engine.variants import HUB_NAMES

GIB = 2**30


def shapes_of(model: str) -> tuple[Shapes, RenderDefaults]:
    """The shapes of a model, whose weights need not exist. The published models need no files.

    Raises CheckpointError, a ValueError, if there is no such model.
    """
    if model in HUB_NAMES:
        published = PRESETS[model.removesuffix("-1.1")]
        return published.shapes, RenderDefaults(num_frames=published.frames)
    checkpoint = open_checkpoint(model)
    return Shapes.of(checkpoint), checkpoint.render_defaults


def table(plan: MemoryPlan) -> str:
    """What each stage needs, in GiB, and the largest tensors at its peak."""
    columns = ("weights", "held", "activations", "total", "with all networks")
    lines = [f"{plan.device}, {str(plan.dtype).removeprefix('torch.')}, GiB"]
    lines += ["".join((f"{'stage':8}", *(f"{name:>19}" for name in columns)))]
    for stage in plan.stages:
        sizes = (stage.weights, stage.held, stage.activations, stage.total, plan.resident(stage))
        lines += ["".join((f"{stage.stage:8}", *(f"{size / GIB:19.3f}" for size in sizes)))]
    return "\n".join((*lines, *(line for stage in plan.stages for line in _largest(stage))))


def _largest(stage: StageMemory) -> list[str]:
    lines = ["", f"largest at the peak of {stage.stage}:"]
    for alike in stage.largest:
        dtype = str(alike.dtype).removeprefix("torch.")
        lines += [f"  {alike.bytes / GIB:.3f}  {alike.count} x {dtype} {alike.shape}"]
        lines += [f"         {alike.where}"]
    return lines
