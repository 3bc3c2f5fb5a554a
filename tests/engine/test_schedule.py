"""Sigmas, timesteps, scalings, guidance and steps, compared with diffusers' scheduler alone."""

from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.schedulers import AysSchedules
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svd_engine.config import ScheduleConfig
from svd_engine.schedule import (
    ALIGNED,
    StepResult,
    aligned_sigmas,
    denoised,
    euler_step,
    guidance_scales,
    guide,
    initial_latents,
    initial_scale,
    karras_sigmas,
    make_sigmas,
    make_timesteps,
    scale_input,
)
from tests.support.reference import SCHEDULER, relative_difference

AYS = AysSchedules["StableDiffusionVideoSigmas"]
STEPS = st.integers(1, 60)
RANGES = st.tuples(st.floats(0.001, 0.5), st.floats(1.0, 900.0))
SHAPE = (1, 3, 4, 2, 5)  # a clip's latents
TOLERANCE = 1e-6


def theirs(steps: int, **changes: Any) -> Any:
    scheduler = EulerDiscreteScheduler(**(SCHEDULER | changes))
    scheduler.set_timesteps(steps)
    return scheduler


def ours(**changes: Any) -> ScheduleConfig:
    return ScheduleConfig.model_validate(SCHEDULER | changes)


def draw(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=30)
@given(STEPS, RANGES)
def test_sigmas_and_timesteps_are_diffusers(steps: int, ends: tuple[float, float]) -> None:
    config = {"sigma_min": ends[0], "sigma_max": ends[1]}
    reference = theirs(steps, **config)
    sigmas = make_sigmas(ours(**config), steps, None)
    assert sigmas.dtype == torch.float32
    assert relative_difference(sigmas, reference.sigmas) <= TOLERANCE
    assert ((sigmas[:-1] / reference.sigmas[:-1] - 1).abs() <= 1e-5).all()  # the small ones too
    assert torch.equal(karras_sigmas(steps, *ends), sigmas)
    assert (make_timesteps(sigmas) - reference.timesteps).abs().max() <= 1e-5


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_denoising_begins_with_diffusers_noise(spacing: str) -> None:
    for sigma_max in (700.0, 2.0):
        changes = {"timestep_spacing": spacing, "sigma_max": sigma_max}
        sigmas, noise = make_sigmas(ours(**changes), 5, None), draw(0)
        scale = theirs(5, **changes).init_noise_sigma
        assert initial_scale(ours(**changes), sigmas).item() == pytest.approx(float(scale))
        begun = initial_latents(noise, ours(**changes), sigmas)
        assert relative_difference(begun, noise * scale) <= TOLERANCE


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.0)])
@pytest.mark.parametrize("sigma_max", [700.0, 3.0])
def test_every_step_is_diffusers(dtype: torch.dtype, tolerance: float, sigma_max: float) -> None:
    reference = theirs(7, sigma_max=sigma_max)
    sigmas, latents = reference.sigmas, draw(1, dtype)
    for step, timestep in enumerate(reference.timesteps):
        v = draw(100 + step, dtype)
        scaled = reference.scale_model_input(latents, timestep)
        assert relative_difference(scale_input(latents, sigmas[step]), scaled) <= tolerance
        expected = reference.step(v, timestep, latents)
        made = euler_step(latents, v, sigmas[step], sigmas[step + 1])
        assert isinstance(made, StepResult)
        assert (made.latents.dtype, made.denoised.dtype) == (dtype, torch.float32)
        assert relative_difference(made.latents, expected.prev_sample) <= tolerance
        assert relative_difference(made.denoised, expected.pred_original_sample) <= tolerance
        assert torch.equal(made.denoised, denoised(latents, v, sigmas[step]))
        latents = expected.prev_sample


@given(st.floats(1.0, 10.0), st.floats(1.0, 10.0), st.integers(1, 9), st.integers(1, 9))
def test_guidance_leads_from_one_scale_to_the_other_at_every_step(
    lowest: float, highest: float, frames: int, steps: int
) -> None:
    scales = guidance_scales(lowest, highest, frames, steps)
    assert (scales.shape, scales.dtype) == ((steps, frames), torch.float32)
    assert (scales == scales[0]).all()
    assert scales[0, 0].item() == pytest.approx(lowest)
    if frames > 1:
        assert scales[0, -1].item() == pytest.approx(highest)
        even = torch.full((frames - 1,), (highest - lowest) / (frames - 1))
        assert torch.allclose(scales[0].diff(), even, atol=1e-5)


def test_each_frame_is_guided_by_its_own_scale() -> None:
    without, with_picture = draw(2), draw(3)
    scales = torch.tensor([0.0, 1.0, 3.0])
    made = guide(torch.cat([without, with_picture]), scales)
    assert made.shape == SHAPE
    assert torch.equal(made[:, 0], without[:, 0])
    assert torch.allclose(made[:, 1], with_picture[:, 1], atol=1e-6)
    beyond = without[:, 2] + 3 * (with_picture[:, 2] - without[:, 2])
    assert torch.equal(made[:, 2], beyond)


def test_given_sigmas_are_taken_as_they_are() -> None:
    for given_ones in ((9.0, 3.5, 0.1, 0.0), (9, 3, 1, 0)):
        made = make_sigmas(ours(), 25, given_ones)
        assert made.dtype == torch.float32
        assert torch.equal(made, torch.tensor(given_ones).float())


def test_a_schedule_may_be_spread_in_another_way() -> None:
    config = ours(sigma_min=0.01, sigma_max=500.0)
    made = make_sigmas(config, 8, None, aligned_sigmas)
    assert torch.equal(made, aligned_sigmas(8, 0.01, 500.0))
    assert not torch.equal(made, make_sigmas(config, 8, None))


def test_the_fast_schedule_is_diffusers_own() -> None:
    assert aligned_sigmas(10, 0.002, 700.0).tolist() == pytest.approx(AYS, rel=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 25])
def test_other_step_counts_keep_to_the_curve(steps: int) -> None:
    """Every level of 20 steps that 10 steps have, too; and all between their neighbours."""
    sigmas = aligned_sigmas(steps, 0.002, 700.0)
    assert len(sigmas) == steps + 1
    assert (sigmas[0].item(), sigmas[-1].item()) == (700.0, 0.0)
    assert (sigmas.diff() < 0).all()
    if steps == 20:
        assert sigmas[:-1:2].tolist() == pytest.approx(AYS[:-1], rel=1e-6)
        assert sigmas[1] ** 2 == pytest.approx(700.0 * 54.5, rel=1e-6)


def test_another_range_has_its_own_ends_and_the_levels_between_them() -> None:
    assert aligned_sigmas(10, 0.002, 400.0).tolist()[1:] == pytest.approx(AYS[1:], rel=1e-6)
    narrow = aligned_sigmas(10, 0.1, 20.0)
    assert narrow[0].item() == pytest.approx(20.0)
    assert narrow[9].item() > 0.1
    assert (narrow.diff() < 0).all()


def test_an_aligned_schedule_has_the_published_levels_strictly_within_its_ends() -> None:
    low, high = ALIGNED[-2], ALIGNED[1]  # ends that are themselves published levels
    made = aligned_sigmas(6, low, high)
    assert made.dtype == torch.float32
    expected = [*ALIGNED[1:-2], 0.0]
    assert made.tolist() == pytest.approx(expected, rel=1e-6)
