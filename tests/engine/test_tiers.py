"""Tiers: their parameters, what they refuse, and the tier fast compared with diffusers."""

from typing import Any

import pytest
import torch
from diffusers.schedulers import AysSchedules
from PIL import Image
from pydantic import ValidationError

from svd_engine.deviations import recipe_of
from svd_engine.engine import Engine
from svd_engine.params import RenderParams
from tests.engine.test_parity import assert_same_clip
from tests.support.reference import SPECS, record

ALIGNED: list[float] = AysSchedules["StableDiffusionVideoSigmas"]
NAME = "shallow"


@pytest.mark.parametrize(
    ("given", "steps", "interval", "tier"),
    [
        ({}, 25, 1, "exact"),
        ({"tier": "fast"}, 10, 1, "fast"),
        ({"tier": " fast", "num_inference_steps": 25}, 25, 1, "fast"),
        ({"tier": "fast", "reuse_interval": 2}, 10, 2, "fast"),
        ({"tier": "reuse"}, 25, 2, "reuse"),
        ({"reuse_interval": "3"}, 25, 3, "reuse"),
        ({"reuse_interval": 1}, 25, 1, "exact"),
        ({"sigmas": (9, 3, 1, 0), "reuse_interval": 2}, 3, 2, "reuse"),
    ],
)
def test_a_tier_says_what_is_left_open(
    given: dict[str, Any], steps: int, interval: int, tier: str
) -> None:
    params = RenderParams(**given)
    assert (params.steps, params.reuse_interval, params.tier) == (steps, interval, tier)
    assert RenderParams.model_validate_json(params.model_dump_json()) == params


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tier": "fast", "sigmas": (3, 0)}, "tier fast has sigmas of its own"),
        ({"tier": "exact", "reuse_interval": 2}, "tier exact computes every step whole"),
        ({"tier": "reuse", "reuse_interval": 1}, "interval of 1 reuses nothing"),
        ({"tier": "reuse", "num_inference_steps": 2}, "less than the number of steps, 2; got 2"),
        ({"tier": "fast", "reuse_interval": 10}, "less than the number of steps, 10; got 10"),
        ({"sigmas": (3, 1, 0), "reuse_interval": 2}, "less than the number of steps, 2; got 2"),
        ({"reuse_interval": 0}, "greater than or equal to 1"),
        ({"reuse_interval": 11}, "less than or equal to 10"),
        ({"tier": "fast", "deviations": "karras_off"}, "does not go with the tier fast"),
        ({"tier": "exactly"}, "'exact', 'fast' or 'reuse'"),
    ],
)
def test_what_contradicts_a_tier_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RenderParams(**given)


def test_fast_is_what_diffusers_renders_with_these_sigmas(
    engine: Engine, pipeline: Any, picture: Image.Image
) -> None:
    call = SPECS[NAME].render
    tape = record(pipeline, picture, seed=3, **call, sigmas=ALIGNED)
    assert_same_clip(engine, picture, RenderParams(**call, seed=3, tier="fast"), tape)


def test_a_mistake_is_made_in_a_tier_as_well(engine: Engine) -> None:
    recipe = recipe_of(RenderParams(tier="fast", deviations="timestep_minus_ln"))
    sigmas = recipe.sigmas(engine.schedule, 10, None)
    assert sigmas[1].item() == pytest.approx(54.5)
    assert torch.equal(recipe.timesteps(sigmas), -sigmas[:-1].log())
