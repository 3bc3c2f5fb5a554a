"""Previews: colours fitted to the picture, and the estimate at each step."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image, ImageSequence

from farm.model.plan import Kind, Stage, Task
from farm.model.request import digest_of
from farm.store import open_store
from farm.workers.worker import Worker
from svd_engine import RenderParams
from svd_engine.preview import draw_preview, fit_palette
from svd_engine.schedule import euler_step
from tests.conftest import draw_picture
from tests.support.farm_jobs import picture_bytes
from tests.support.reference import SCHEDULER, relative_difference
from tests.workers.test_memory import order, steps_and_result

SHAPE = 64, 48


@pytest.fixture
def store(tmp_path: Path) -> str:
    open_store(str(tmp_path)).put(f"pictures/{digest_of(picture_bytes())}", picture_bytes())
    return str(tmp_path)


def linear_in_the_colours(picture: Image.Image) -> torch.Tensor:
    """A latent of a picture, as a VAE would make it that only mixes the colours."""
    small = np.asarray(picture.reduce(8), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    mix = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    return torch.einsum("dc,nchw->ndhw", mix, torch.from_numpy(small)) + 0.3


def drawn(latents: torch.Tensor, picture: Image.Image, latent: torch.Tensor) -> list[Image.Image]:
    palette = fit_palette(picture, latent, RenderParams())
    data = draw_preview(0.18215 * latents, palette, 0.18215, fps=8)
    with Image.open(BytesIO(data)) as preview:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(preview)]


def off_by(seen: Image.Image, there: Image.Image) -> float:
    """The mean difference, in levels."""
    difference = np.asarray(seen, np.float32) - np.asarray(there.convert("RGB"), np.float32)
    return float(np.abs(difference).mean())


def test_a_clip_that_does_not_move_is_as_sharp_as_its_picture() -> None:
    picture = Image.open("tests/pictures/temple.jpg").convert("RGB").crop((0, 0, 384, 256))
    latent = linear_in_the_colours(picture)
    frame = drawn(latent.expand(2, -1, -1, -1), picture, latent)[0]
    there = picture.resize((256, 171), Image.Resampling.BOX)
    blurred = picture.reduce(8).resize(there.size, Image.Resampling.BICUBIC)
    assert off_by(frame, there) < 0.6 * off_by(blurred, there)


def test_what_changes_has_its_new_colours_and_nothing_of_the_picture() -> None:
    picture, other = draw_picture(512, 384), Image.new("RGB", (512, 384), "navy")
    latent = linear_in_the_colours(picture)
    frame = drawn(linear_in_the_colours(other), picture, latent)[0]
    assert off_by(frame, other.resize((256, 192))) < 12


@pytest.mark.parametrize("step", [0, 12, 24])
def test_the_estimate_of_a_step_is_diffusers_pred_original_sample(step: int) -> None:
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(25)
    sigma, generator = scheduler.sigmas[step], torch.Generator().manual_seed(1)
    v = torch.randn(1, 5, 4, 6, 8, generator=generator)
    latents = torch.randn(v.shape, generator=generator) * (sigma**2 + 1) ** 0.5
    scheduler.scale_model_input(latents, scheduler.timesteps[step])
    theirs = scheduler.step(v, scheduler.timesteps[step], latents)
    ours = euler_step(latents, v, sigma, scheduler.sigmas[step + 1])
    assert relative_difference(ours.denoised, theirs.pred_original_sample) <= 1e-6
    assert relative_difference(ours.latents, theirs.prev_sample) <= 1e-6


def test_a_worker_stores_previews_and_says_of_which_step(tiny: Path, store: str) -> None:
    changes: dict[str, Any] = {"num_inference_steps": 12}
    worker = Worker(Kind.RENDERER, "cpu", open_store(store))
    encode = order(tiny, Task("conditioning", Stage.ENCODE), **changes)
    _, conditioning = steps_and_result(worker.run(encode))
    task = Task("latents/0012", Stage.DENOISE, ("conditioning",), (0, 12))
    denoise = order(tiny, task, **changes)
    previewed = []
    for step in worker.run(denoise, conditioning):
        previewed.append(step.previewed)
        if worker._previewer._drawing is not None:
            worker._previewer._drawing.result()
    assert previewed == [0, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10]
    stored = open_store(store).get(f"previews/{denoise.request.digest}.webp")
    assert stored is not None
    with Image.open(BytesIO(stored.data)) as preview:
        assert preview.size == SHAPE


def test_a_preview_that_fails_costs_no_clip(
    tiny: Path,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Worker(Kind.RENDERER, "cpu", open_store(store))
    _, conditioning = steps_and_result(worker.run(order(tiny, Task("c", Stage.ENCODE))))
    monkeypatch.setattr("farm.workers.previews.draw_preview", lambda *_: 1 / 0)
    task = Task("latents/0005", Stage.DENOISE, ("c",), (0, 5))
    steps, latents = steps_and_result(worker.run(order(tiny, task), conditioning))
    assert (steps, latents.step) == ([0, 1, 2, 3, 4, 5], 5)
