"""Traces of small random checkpoints, for the tests of `svd_engine.conformance`."""

import random
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from svd_engine import Engine, RenderParams
from svd_engine.conformance.diagnose import Diagnosis, diagnose
from svd_engine.conformance.record import Recorder, record
from svd_engine.conformance.reference import load_reference, record_reference
from svd_engine.conformance.replay import Case
from svd_engine.conformance.traces import Trace
from svd_engine.deviation_catalogue import CATALOGUE
from svd_engine.picture_pixels import fit_picture
from tests.support.reference import SPECS

NAMES = ("shallow", "three-levels")  # of the checkpoints
STEPS = 3


def params_of(name: str, engine: Engine, **changes: Any) -> RenderParams:
    small = {"width": 72, "height": 56}  # the size of the checkpoint three-levels
    asked = {"seed": 11, "num_inference_steps": STEPS, **SPECS[name].render, **small, **changes}
    return RenderParams(**asked).resolve(engine.defaults)


def some_by_default(things: Iterable[Any], one_in: int) -> list[Any]:
    """Parameters of each checkpoint with each thing: one in so many by default, the others slow."""
    return [
        pytest.param(
            name,
            thing,
            id=f"{name}-{getattr(thing, 'name', thing)}",
            marks=[pytest.mark.slow] if (n + m) % one_in else [],
        )
        for n, name in enumerate(NAMES)
        for m, thing in enumerate(things)
    ]


def trace(engine: Engine, picture: Image.Image, params: RenderParams, **keep: Any) -> Trace:
    """A trace of our engine."""
    recorder = Recorder(**keep)
    record(engine, picture, params, recorder)
    return Trace(recorder.tensors)


def reference_trace(
    folder: Path, picture: Image.Image, params: RenderParams, dtype: torch.dtype
) -> Trace:
    """A trace of diffusers."""
    recorder = Recorder()
    record_reference(load_reference(folder, "cpu", dtype, None), picture, params, recorder)
    return Trace(recorder.tensors)


def case_of(
    theirs: Trace,
    engine: Engine,
    picture: Image.Image,
    params: RenderParams,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """The case of a float32 engine that knows the parameters, but no deviations."""
    asked = params.model_copy(update={"deviations": ()})
    assert asked.width is not None
    assert asked.height is not None
    image = fit_picture(picture, asked.width, asked.height, asked.fit)
    return Case(theirs, engine, image, asked, dtype)


def diagnosed(
    theirs: Trace,
    engine: Engine,
    picture: Image.Image,
    params: RenderParams,
    dtype: torch.dtype = torch.float32,
    steps_judged: int | None = None,
) -> Diagnosis:
    """Diagnose a trace."""
    return diagnose(case_of(theirs, engine, picture, params, dtype), steps_judged=steps_judged)


def random_pairs(count: int = 40) -> list[tuple[str, ...]]:
    """A random selection of pairs of the catalogue's mistakes."""
    return random.Random(7).sample(list(combinations(CATALOGUE, 2)), count)


def misnamed(
    engine: Engine, name: str, picture: Image.Image, mistakes: Iterable[tuple[str, ...]]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The mistakes that are diagnosed wrongly, each with the diagnosis."""
    missed = []
    for made in mistakes:
        params = params_of(name, engine, deviations=made)
        found = diagnosed(trace(engine, picture, params), engine, picture, params)
        if found.deviations != made:
            missed.append((made, found.deviations))
    return missed


def noisy(theirs: Trace, strength: float = 1e-4) -> Trace:
    """A copy with noise added to each tensor. strength: relative to the tensor's RMS."""
    generator = torch.Generator().manual_seed(5)

    def added(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        noise = torch.randn(x.shape, generator=generator)
        if x.ndim <= 2:  # entries of different sizes
            return x * (1 + strength * noise)
        return x + strength * x.square().mean().sqrt() * noise

    return Trace({key: added(theirs[key]) for key in theirs})
