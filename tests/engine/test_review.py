"""The findings of the review that this engine grew from, each verified against diffusers."""

import math
from typing import Any

import pytest
import torch
from PIL import Image

from svd_engine import Engine, RenderParams
from svd_engine.layers import Constants
from svd_engine.schedule import guidance_scales, initial_scale, make_sigmas
from svd_engine.stages import draw_noise
from tests.support.reference import SPECS, Recording, record, relative_difference

STEPS = 3
NAME = "published-depth"


class Listener:
    """What the engine's networks were given."""

    def __init__(self, engine: Engine) -> None:
        self.unet: list[tuple[torch.Tensor, ...]] = []
        self.vae_input = torch.empty(0)
        self._inputs: tuple[torch.Tensor, ...] = ()
        self._network, self._predict = engine.unet, engine.unet.predict
        self._constants = engine.unet.constants
        self._hook = engine.vae.encoder.register_forward_pre_hook(self._on_encode)
        vars(engine.unet).update(constants=self._on_constants, predict=self._on_predict)

    def _on_constants(self, *arguments: Any) -> list[Constants]:
        self._inputs = arguments[:-1]  # but the number of frames
        return self._constants(*arguments)

    def _on_predict(self, sample: torch.Tensor, constants: Constants) -> torch.Tensor:
        timesteps, context, time_ids = self._inputs
        self.unet.append((sample, timesteps[len(self.unet), 0], context, time_ids))
        return self._predict(sample, constants)

    def _on_encode(self, _module: Any, args: Any) -> None:
        self.vae_input = args[0].movedim(-1, 1).clone()

    def close(self) -> None:
        self._hook.remove()
        for name in ("constants", "predict"):
            del vars(self._network)[name]


@pytest.fixture(scope="module")
def theirs(pipeline: Any, picture: Image.Image) -> Recording:
    call = {**SPECS[NAME].render, "num_inference_steps": STEPS, "fps": 9, "motion_bucket_id": 61}
    return record(pipeline, picture, seed=5, **call)


@pytest.fixture(scope="module")
def ours(engine: Engine, picture: Image.Image) -> Listener:
    listener = Listener(engine)
    call = {**SPECS[NAME].render, "num_inference_steps": STEPS, "fps": 9, "motion_bucket_id": 61}
    engine.render(picture, RenderParams(seed=5, **call))
    listener.close()
    return listener


def test_fps_minus_one_conditioning(ours: Listener, theirs: Recording) -> None:
    for given, reference in zip(ours.unet, theirs.unet_inputs, strict=True):
        assert torch.equal(given[3], reference["added_time_ids"])
        assert given[3][0].tolist() == pytest.approx([9 - 1, 61, 0.02])


def test_per_frame_guidance_scale(pipeline: Any, theirs: Recording) -> None:
    frames = theirs.latents[0].shape[1]
    for scales in guidance_scales(1.0, 3.0, frames, steps=4):  # the same at every step
        assert torch.equal(scales, pipeline.guidance_scale.flatten())
        assert scales.tolist() == [1.0, 2.0, 3.0]


def test_noise_augmentation_before_encode(ours: Listener, theirs: Recording) -> None:
    assert relative_difference(ours.vae_input, theirs.vae_input) <= 1e-6


def test_timestep_scaling(ours: Listener, theirs: Recording) -> None:
    for step, (given, reference) in enumerate(zip(ours.unet, theirs.unet_inputs, strict=True)):
        assert given[1].item() == pytest.approx(reference["timestep"].item(), rel=1e-7)
        assert given[1].item() == pytest.approx(0.25 * math.log(theirs.sigmas[step]), rel=1e-6)


def test_latents_enter_as_frames_then_channels(ours: Listener, theirs: Recording) -> None:
    """[B, F, C, h, w], noise latents before image latents, the unconditional half first."""
    for given, reference in zip(ours.unet, theirs.unet_inputs, strict=True):
        assert given[0].shape == (2, 3, 8, 9, 13)
        assert relative_difference(given[0], reference["sample"]) <= 1e-5
        assert not given[0][0, :, 4:].any()


def test_guidance_runs_both_halves_in_one_batch(ours: Listener) -> None:
    assert len(ours.unet) == STEPS


def test_embedding_is_per_sample(ours: Listener, theirs: Recording) -> None:
    for given, reference in zip(ours.unet, theirs.unet_inputs, strict=True):
        assert given[2].shape == (2, 1, 48)
        assert relative_difference(given[2], reference["encoder_hidden_states"]) <= 1e-5
        assert not given[2][0].any()


def test_noise_order_and_initial_scale(engine: Engine, theirs: Recording) -> None:
    """The picture's noise is drawn before the latents', from one generator."""
    params = RenderParams(seed=5, num_frames=3, width=104, height=72)
    latents = draw_noise(params, torch.float32).latents
    sigmas = make_sigmas(engine.schedule, STEPS, None)
    scaled = latents * initial_scale(engine.schedule, sigmas) / (sigmas[0] ** 2 + 1) ** 0.5
    assert relative_difference(scaled, theirs.unet_inputs[0]["sample"][:1, :, :4]) <= 1e-6


def test_image_latent_is_the_unscaled_mean(ours: Listener, theirs: Recording) -> None:
    image_latents = ours.unet[0][0][1, :, 4:]
    for frame in image_latents:
        assert relative_difference(frame[None], theirs.image_latent) <= 1e-5
