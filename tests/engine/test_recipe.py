"""The recipe's own functions: what they pass on, and colours compared with diffusers."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from svd_engine import recipe
from svd_engine.config import ScheduleConfig, UNetConfig
from svd_engine.reuse import Reuse
from svd_engine.schedule import aligned_sigmas
from svd_engine.tiny import UNET_CONFIG
from svd_engine.unet import UNet
from tests.support.reference import SCHEDULER, randomize, relative_difference

FRAMES, STEPS = 2, 3


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(3)
    return randomize(UNet(UNetConfig.model_validate(UNET_CONFIG)))


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@torch.no_grad()
def test_a_step_is_predicted_as_by_the_whole_network(unet: UNet) -> None:
    samples, context, time_ids = draw(2, FRAMES, 8, 8, 16), draw(2, 1, 64), draw(2, 3)
    timesteps = torch.tensor([1.6, 0.2, -1.5])
    made = recipe.constants(unet, timesteps, context, time_ids, FRAMES)
    assert len(made) == STEPS
    reuse = Reuse(2)
    reused = [recipe.predict(unet, samples, step, reuse) for step in made]
    for number, timestep in enumerate(timesteps):
        whole = unet(samples, timestep.expand(2), context, time_ids)
        own = recipe.predict(unet, samples, made[number], None)
        assert relative_difference(own, whole) <= 1e-5
        assert torch.equal(reused[number], own) == (number != 1)  # it has features of the first


@given(st.floats(0.01, 10.0))
def test_latents_are_unscaled_as_diffusers_writes_it(factor: float) -> None:
    latents = draw(2, 4, 3, 5)
    assert torch.equal(recipe.unscale(latents, factor), 1 / factor * latents)


def test_the_decoder_is_run_in_the_way_that_is_asked_for() -> None:
    vae: Any = object()
    latents = draw(2, 4, 3, 5)
    seen: list[tuple[Any, Tensor]] = []

    def run(*given: Any) -> Tensor:
        seen.append(given)
        return latents + 1

    assert torch.equal(recipe.decode(vae, latents, run), latents + 1)
    assert len(seen) == 1
    assert seen[0][0] is vae
    assert seen[0][1] is latents


def test_colours_are_diffusers() -> None:
    frames = torch.cat([draw(3, 3, 8, 6), torch.linspace(-1.2, 1.2, 3 * 48).view(1, 3, 8, 6)])
    processor = VaeImageProcessor()
    theirs = processor.postprocess(frames, output_type="np")
    made = recipe.to_uint8(frames)
    assert (made.dtype, made.is_contiguous(), made.device.type) == (torch.uint8, True, "cpu")
    expected = np.stack([np.asarray(picture) for picture in processor.numpy_to_pil(theirs)])
    assert np.array_equal(made.numpy(), expected)


def test_a_level_halfway_between_two_is_rounded_to_the_even_one() -> None:
    level = torch.arange(255).float() + 0.5
    frames = (level / 255 - 0.5) / 0.5
    exact = (frames * 0.5 + 0.5) * 255 == level  # where float32 hits the middle
    made = recipe.to_uint8(frames.view(1, 1, 1, 255))[0, 0, :, 0]
    assert exact.sum() > 20
    assert torch.equal(made[exact] % 2, torch.zeros_like(made[exact]))


def test_the_tier_fast_differs_only_in_where_its_steps_lie() -> None:
    schedule = ScheduleConfig.model_validate(SCHEDULER)
    assert torch.equal(
        recipe.FAST.sigmas(schedule, 10, None),
        aligned_sigmas(10, schedule.sigma_min, schedule.sigma_max),
    )
    same = recipe.FAST.__dict__ | {"sigmas": recipe.REFERENCE.sigmas}
    assert same == recipe.REFERENCE.__dict__
