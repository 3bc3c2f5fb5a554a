"""`python -m tests.sizing`: the sizing table of deploy/README.md.

Memory is by the engine's plan: what a renderer, with all networks, and a decoder need that share
a card, and half a gigabyte for CUDA in each process. Times are estimated from the one
clip that was measured, by the operations that the networks need.
"""

import torch

from svd_engine.bench.floor import operations_of
from svd_engine.bench.networks import PRESETS
from svd_engine.memory_plan import memory_plan
from svd_engine.memory_table import shapes_of
from svd_engine.params import RenderParams

MODELS = ("svd", "svd-xt")
SIZES = ((512, 512), (576, 320), (1024, 576))
STEPS = 25
CONTEXT_GB = 0.5  # of each process
# What the H200 took for a clip of svd-xt at 1024 x 576: svd_engine/README.md, section 5.
MEASURED_S = 8.8
HEAD = (
    f"| model, {STEPS} steps, float16 | size | renderer | decoder | a card for both | "
    "estimated time on an H200 | clips in an hour |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def rows() -> list[str]:
    """The rows of the table."""
    made = [_row(model, width, height) for model in MODELS for width, height in SIZES]
    return [HEAD, *made]


def _row(model: str, width: int, height: int) -> str:
    shapes, defaults = shapes_of(model)
    params = RenderParams(width=width, height=height, num_inference_steps=STEPS).resolve(defaults)
    plan = memory_plan(shapes, params, "cuda", torch.float16)
    stages = {stage.stage: stage for stage in plan.stages}
    renderer = max(plan.resident(stages[name]) for name in ("encode", "denoise"))
    needs = [size / 1e9 + CONTEXT_GB for size in (renderer, stages["decode"].total)]
    seconds = MEASURED_S * _operations(params) / _operations(_measured())
    gigabytes = " | ".join(f"{need:.1f} GB" for need in (*needs, sum(needs)))
    return (
        f"| {model} | {width} x {height} | {gigabytes} | {seconds:.1f} s | {3600 / seconds:.0f} |"
    )


def _measured() -> RenderParams:
    _, defaults = shapes_of("svd-xt")
    return RenderParams(num_inference_steps=STEPS).resolve(defaults)


def _operations(params: RenderParams) -> int:
    preset = PRESETS["svd-xt"]
    return operations_of(preset.unet_config, preset.vae_config, params)["clip"]


if __name__ == "__main__":
    print("\n".join(rows()))
