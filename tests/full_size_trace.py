"""`python -m tests.full_size_trace`: how long a trace of SVD-XT's size takes to diagnose.

25 frames of 576 x 1024, 25 steps, guidance on. The networks are on `meta` and do not run, so their
results are random and not judged; every other tensor is real and right, and is judged. Then one of
each stage is mirrored and judged again, on one core.
"""

import time
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from svd_engine.bench.networks import PRESETS
from svd_engine.clip import ImageEncoder
from svd_engine.config import PreprocessorConfig
from svd_engine.conformance.findings import Finding, Verdict
from svd_engine.conformance.judge import judge_tensor
from svd_engine.conformance.replay import STAGES, Case
from svd_engine.conformance.traces import AFTER, BEFORE, OF_STEP, Trace, split_key, step_key
from svd_engine.deviations import recipe_of
from svd_engine.engine import Engine
from svd_engine.params import RenderDefaults
from svd_engine.tiny import PREPROCESSOR
from svd_engine.unet import UNet
from svd_engine.vae import VAE
from tests.conftest import draw_picture

SHAPES = {  # of what the networks compute
    "clip.embedding": (1, 1, 1024),
    "image.latent": (1, 4, 72, 128),
    "step.model_output": (2, 25, 4, 72, 128),
    "frames": (25, 3, 576, 1024),
}


def right_case() -> Case:
    """A right trace, and an engine without weights to judge it by."""
    shapes, preset = PRESETS["svd-xt"].shapes, PRESETS["svd-xt"]
    with torch.device("meta"):
        networks = ImageEncoder(shapes.image_encoder), UNet(shapes.unet), VAE(shapes.vae)
    preprocessor = PreprocessorConfig.model_validate(PREPROCESSOR)
    defaults = RenderDefaults(num_frames=preset.frames)
    engine = Engine(*networks, shapes.schedule, preprocessor, defaults)
    params = preset.params.resolve(defaults)
    tensors: dict[str, Tensor] = {}
    case = Case(Trace(tensors), engine, draw_picture(1024, 576), params, torch.float32)
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    of_steps = [step_key(step, what) for step in range(params.steps) for what in OF_STEP]
    for key in (*BEFORE, *of_steps, *AFTER):
        name, step = split_key(key)
        if name in SHAPES:
            tensors[key] = draw(SHAPES[name])
        elif name == "guidance":
            tensors[key] = torch.linspace(*params.guidance, params.num_frames or 0)
        else:
            tensors[key] = STAGES[name](case, recipe_of(params), step or 0)
    return case


def timed(case: Case, key: str) -> tuple[Finding, float]:
    """The finding on a tensor, and the seconds that it took."""
    name, step = split_key(key)
    began = time.perf_counter()
    return judge_tensor(case, key, name, step or 0), time.perf_counter() - began


def mirrored(case: Case, key: str) -> Case:
    """The case with one tensor mirrored: left to right, or its entries reversed."""
    axis = -2 if key == "frames.uint8" else -1
    return replace(case, trace=Trace({**case.trace, key: case.trace[key].flip(axis)}))


def main() -> None:
    """Print a row for each stage, and the whole."""
    case, whole = right_case(), 0.0
    print("| stage | tensors | each judged in | mirrored, described in | as |")
    print("| --- | --- | --- | --- | --- |")
    for name in (name for name in STAGES if name not in SHAPES):
        keys = [key for key in case.trace if split_key(key)[0] == name]
        right = [timed(case, key) for key in keys]
        assert {finding.verdict for finding, _ in right} == {Verdict.RIGHT}
        seconds = [second for _, second in right]
        whole += sum(seconds)
        wrong, described = timed(mirrored(case, keys[0]), keys[0])
        assert wrong.departs
        each = f"{sum(seconds) / len(seconds):.2f} s"
        what = wrong.relation or ", ".join(wrong.deviations)
        print(f"| `{name}` | {len(keys)} | {each} | {described:.2f} s | {what} |", flush=True)
    print(f"\nAll {len(case.trace)} tensors but those of the networks: {whole:.1f} s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
