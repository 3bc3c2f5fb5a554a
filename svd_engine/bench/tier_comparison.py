"""Compares the approximate tiers with exact clips: `python -m svd_engine tiers`.

Each picture is rendered exactly and then in each tier, with the same seed in one process, to
measure how much faster the tiers are, and how close their clips come.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from svd_engine.bench.measure import Call, synchronize
from svd_engine.bench.quality import psnr, ssim
from svd_engine.engine import Engine
from svd_engine.params import RenderParams
from svd_engine.picture_files import Picture
from svd_engine.tiers import whole_steps
from svd_engine.unet import UNet
from svd_engine.video import Frames

# The second variant has as few steps as `fast`, but on the checkpoint's own schedule.
VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "exact, 10 steps": {"num_inference_steps": 10},
    "fast": {"tier": "fast"},
    "reuse, interval 2": {"tier": "reuse", "reuse_interval": 2},
    "reuse, interval 3": {"tier": "reuse", "reuse_interval": 3},
    "fast, interval 2": {"tier": "fast", "reuse_interval": 2},
}
HEAD = (
    f"{'':20}{'steps':>6}{'whole':>6}{'seconds':>9}{'ratio':>7}{'PSNR':>8}{'least':>7}{'SSIM':>8}"
)


@dataclass
class Found:
    """The results of one variant: for each picture the seconds, and the distance to exact."""

    params: RenderParams
    seconds: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)


def shallow_step(unet: UNet, inputs: Sequence[Tensor]) -> Call:
    """A call that computes a UNet step which reuses features."""
    sample, timestep, context, time_ids = inputs
    timesteps = timestep.expand(1, len(sample))
    with torch.inference_mode():
        (constants,) = unet.constants(timesteps, context, time_ids, sample.shape[1])
        features = unet.deep(unet.enter(sample), constants)
    return lambda: unet.shallow(unet.enter(sample), features, constants)


def tier_clips(engine: Engine, picture: Picture, params: RenderParams) -> dict[str, Call]:
    """Calls that render a clip in each tier; none if `fast` would take more steps than exact."""
    if params.steps <= RenderParams(tier="fast").steps:
        return {}
    return {
        name: partial(engine.render, picture, own)
        for name, own in variants_of(params).items()
        if own.tier != "exact"
    }


def variants_of(params: RenderParams) -> dict[str, RenderParams]:
    """The params of each variant by name, the exact one first."""
    given = params.model_dump(exclude={"tier", "reuse_interval", "num_inference_steps", "sigmas"})
    return {name: RenderParams(**given, **own) for name, own in VARIANTS.items()}


def compare(engine: Engine, pictures: Sequence[Picture], params: RenderParams) -> dict[str, Found]:
    """Render and measure all variants, after a clip of one step that warms the process up."""
    found = {name: Found(own) for name, own in variants_of(params).items()}
    engine.render(pictures[0], params.model_copy(update={"num_inference_steps": 1}))
    for picture in pictures:
        exact: Frames | None = None
        for result in found.values():
            start = time.perf_counter()
            frames = engine.render(picture, result.params).frames
            synchronize(next(engine.unet.parameters()).device)
            result.seconds.append(time.perf_counter() - start)
            exact = frames if exact is None else exact
            result.psnr.append(psnr(exact, frames))
            result.ssim.append(ssim(exact, frames))
    return found


def table(found: dict[str, Found]) -> list[str]:
    """The lines of a table: means over the pictures, and the least PSNR."""
    base = mean(found["exact"].seconds)
    lines = [HEAD]
    for name, result in found.items():
        seconds, params = mean(result.seconds), result.params
        whole = len(whole_steps(params.steps, params.reuse_interval))
        line = f"{name:20}{params.steps:6}{whole:6}{seconds:9.2f}{base / seconds:7.2f}"
        near = f"{mean(result.psnr):8.1f}{min(result.psnr):7.1f}{mean(result.ssim):8.3f}"
        lines.append(line if name == "exact" else line + near)
    return lines
