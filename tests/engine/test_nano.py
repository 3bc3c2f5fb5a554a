"""The quality of `nano`, measured over eight pictures that it was not trained on."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from svd_engine import Engine, RenderParams
from svd_engine.checkpoint import NANO, open_checkpoint
from svd_engine.conditioning import Conditioning
from svd_engine.recipe import REFERENCE
from tests.nano import Frames, Nano, motion, psnr

MEGABYTES = 24


def distance(one: Frames, other: Frames) -> float:
    """Mean, in levels."""
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


@pytest.fixture(
    scope="module",
    params=[(2, 64), pytest.param((8, 128), marks=pytest.mark.slow)],
    ids=["two small pictures", "eight pictures"],
)
def nano(request: pytest.FixtureRequest) -> Nano:
    """Over two pictures at a quarter of their size; over all eight in the slow tests."""
    count, side = request.param
    return Nano(Engine.from_pretrained("nano"), steps=5, side=side, count=count)


@pytest.fixture(scope="module")
def small() -> Nano:
    """For what needs neither many pictures nor whole ones: a quarter of the time."""
    return Nano(Engine.from_pretrained("nano"), steps=5, side=64)


def test_it_is_whole_and_small() -> None:
    checkpoint = open_checkpoint("nano")
    checkpoint.check()
    files = [path for path in NANO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MEGABYTES * 1e6
    assert (NANO / "README.md").exists()
    config = json.loads((NANO / "vae/config.json").read_text())
    assert config["_class_name"] == "AutoencoderKLTemporalDecoder"


def test_diffusers_loads_it_and_agrees(small: Nano) -> None:
    from tests.support.reference import load_pipeline

    picture = small.pictures["coffee"]
    params = RenderParams(num_inference_steps=2, seed=3, width=64, height=64).resolve(
        small.engine.defaults
    )
    ours = small.engine.render(picture, params)
    theirs = load_pipeline(NANO)(
        picture,
        height=64,
        width=64,
        num_inference_steps=2,
        motion_bucket_id=params.motion,
        max_guidance_scale=params.guidance[1],
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="latent",
    ).frames
    torch.testing.assert_close(ours.latents, theirs[0], rtol=1e-3, atol=2e-3)


def test_the_vae_keeps_the_picture(nano: Nano) -> None:
    decibels = {name: nano.round_trip(name) for name in nano.pictures}
    assert min(decibels.values()) >= 24, decibels


def test_the_first_frame_is_the_picture(nano: Nano) -> None:
    decibels = {name: nano.first_frame(name) for name in nano.pictures}
    assert min(decibels.values()) >= 20, decibels
    assert {name: nano.nearest(name) for name in nano.pictures} == {n: n for n in nano.pictures}


def test_motion_grows_with_the_motion_bucket(nano: Nano) -> None:
    motions = {name: nano.motions(name) for name in nano.pictures}
    growing = [few < more < most for few, more, most in motions.values()]
    assert sum(growing) >= 7 / 8 * len(motions), motions


def test_the_camera_goes_as_far_as_asked(nano: Nano) -> None:
    """Nearly: with so few steps it goes a little less far."""
    gone = np.array([nano.displacements(name) for name in nano.pictures]).mean(axis=0)
    assert gone.min() > 0.5, gone
    assert gone.max() < 1.2, gone


def test_frames_follow_from_one_another(nano: Nano) -> None:
    ratios = {name: nano.consistency(name) for name in nano.pictures}
    assert max(ratios.values()) <= 0.5, ratios


def test_a_still_latent_does_not_flicker(nano: Nano) -> None:
    levels = {name: nano.flicker(name) for name in nano.pictures}
    assert max(levels.values()) <= 2, levels


@pytest.mark.parametrize("deviation", ["guidance_per_step", "fps_not_reduced"])
def test_a_known_mistake_changes_the_clip(deviation: str, small: Nano) -> None:
    wrong = small.render("coffee", motion_bucket_id=100, deviations=deviation)
    assert distance(small.clip("coffee", 100), wrong) > 0.5


def test_without_the_image_latent_the_picture_is_lost(small: Nano) -> None:
    def forget(
        conditioning: Conditioning, frames: int, guided: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        context, image_latents, ids = REFERENCE.pair(conditioning, frames, guided)
        return context, torch.zeros_like(image_latents), ids

    clip = small.render("coffee", replace(REFERENCE, pair=forget), motion_bucket_id=100)
    assert psnr(clip[0], small.shown["coffee"]) < 15 < small.first_frame("coffee")


def test_every_parameter_does_something(small: Nano) -> None:
    usual = small.clip("flower", 200)

    def other(**asked: Any) -> Frames:
        return small.render("flower", motion_bucket_id=200, **asked)

    assert distance(usual[-1], other(seed=1)[-1]) > 3
    assert distance(usual, other(max_guidance_scale=1.0)) > 0.5
    assert motion(other(fps=15)) < 0.8 * motion(usual)
    picture = small.shown["flower"]
    assert psnr(other(noise_aug_strength=0.5)[0], picture) < psnr(usual[0], picture) - 1
