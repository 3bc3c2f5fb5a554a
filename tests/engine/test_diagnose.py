"""Mistakes are named, alone and in pairs, and right traces are given no name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from svd_engine import Engine
from svd_engine.conformance.findings import Verdict
from svd_engine.conformance.report import report, right_line
from svd_engine.conformance.traces import Trace
from svd_engine.deviation_catalogue import CATALOGUE
from tests.support.traced import (
    NAMES,
    diagnosed,
    misnamed,
    noisy,
    params_of,
    random_pairs,
    reference_trace,
    trace,
)

SHORT: dict[str, Any] = {"num_frames": 3, "num_inference_steps": 2}  # for the default run


@pytest.mark.parametrize(
    ("name", "deviation", "clip", "steps_judged"),
    [  # by default on one checkpoint, and the UNet at one step; all where time is no matter
        pytest.param(name, deviation, clip, steps, marks=marks)
        for n, name in enumerate(NAMES)
        for m, deviation in enumerate(CATALOGUE)
        for clip, steps, marks in ((SHORT, 1, []), ({}, None, [pytest.mark.slow]))
        if not clip or (n + m) % 2 == 0
    ],
)
def test_each_mistake_alone(
    name: str,
    deviation: str,
    clip: dict[str, Any],
    steps_judged: int | None,
    engines: dict[str, Engine],
    large_picture: Image.Image,
) -> None:
    engine = engines[name]
    params = params_of(name, engine, deviations=deviation, **clip)
    theirs = trace(engine, large_picture, params)
    found = diagnosed(theirs, engine, large_picture, params, steps_judged=steps_judged)
    assert found.deviations == (deviation,)
    assert found.exit_status == 1
    assert Verdict.UNEXPLAINED not in {finding.verdict for finding in found.findings}
    assert CATALOGUE[deviation].right in "\n".join(report(found))


@pytest.mark.parametrize(
    ("count", "may_be_missed"), [(2, 0), pytest.param(40, 4, marks=pytest.mark.slow)]
)
def test_random_pairs(
    count: int, may_be_missed: int, engines: dict[str, Engine], large_picture: Image.Image
) -> None:
    pairs = random_pairs(count)
    missed = [
        case
        for number, name in enumerate(NAMES)
        for case in misnamed(engines[name], name, large_picture, pairs[number :: len(NAMES)])
    ]
    assert len(missed) <= may_be_missed, missed


@pytest.mark.parametrize(
    ("name", "dtype", "clip"),
    [  # each type on one checkpoint by default
        pytest.param(name, dtype, clip, marks=marks)
        for n, name in enumerate(NAMES)
        for m, dtype in enumerate((torch.bfloat16, torch.float32))
        for clip, marks in ((SHORT, []), ({}, [pytest.mark.slow]))
        if not clip or n == m
    ],
)
def test_diffusers_makes_no_mistake(
    name: str,
    dtype: torch.dtype,
    clip: dict[str, Any],
    engines: dict[str, Engine],
    checkpoints: dict[str, Path],
    large_picture: Image.Image,
) -> None:
    params = params_of(name, engines[name], **clip)
    theirs = reference_trace(checkpoints[name], large_picture, params, dtype)
    found = diagnosed(theirs, engines[name], large_picture, params, dtype)
    assert (found.deviations, found.exit_status, found.record_next) == ((), 0, ())
    assert {finding.verdict for finding in found.findings} == {Verdict.RIGHT}


@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def test_noise_is_no_mistake(
    name: str, right: dict[str, Trace], engines: dict[str, Engine], large_picture: Image.Image
) -> None:
    params = params_of(name, engines[name])
    found = diagnosed(noisy(right[name]), engines[name], large_picture, params)
    assert (found.deviations, found.exit_status) == ((), 0)


def test_a_mistake_shows_in_half_precision(
    checkpoints: dict[str, Path], engines: dict[str, Engine], large_picture: Image.Image
) -> None:
    name, dtype = NAMES[0], torch.bfloat16
    half = Engine.from_pretrained(checkpoints[name], dtype=dtype)
    pair = ("fps_not_reduced", "halves_swapped")
    params = params_of(name, half, deviations=pair)
    theirs = trace(half, large_picture, params)
    found = diagnosed(theirs, engines[name], large_picture, params, dtype, steps_judged=1)
    assert found.deviations == pair


def test_noise_of_another_generator(
    engines: dict[str, Engine], large_picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn cannot be known; how it is used can."""
    name, steps = NAMES[0], {"num_inference_steps": 2}
    engine, draw, generator = engines[name], torch.randn, torch.Generator().manual_seed(99)

    def other(*args: Any, **kwargs: Any) -> Any:
        return draw(*args, **{**kwargs, "generator": generator})

    for mistakes in ((), ("posterior_sampled",), ("noise_on_latents",), ("initial_scale_missing",)):
        params = params_of(name, engine, deviations=mistakes, noise_aug_strength=0.3, **steps)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", other)
            theirs = trace(engine, large_picture, params)
        found = diagnosed(theirs, engine, large_picture, params, steps_judged=1)
        assert found.deviations == mistakes
        assert Verdict.UNEXPLAINED not in {finding.verdict for finding in found.findings}


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_right_line_is_there(name: str) -> None:
    place, function = right_line(name).split()
    file, line = place.split(":")
    text = (Path(__file__).parents[2] / file).read_text().splitlines()[int(line) - 1]
    assert f" {function}(" in text
