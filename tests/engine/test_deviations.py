"""Deviations, known mistakes that a render can reproduce: in its digest, and nowhere else."""

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import svd_engine
from farm.model.plan import Stage, Task
from svd_engine import Engine, RenderParams
from svd_engine.deviation_catalogue import CATALOGUE, SETS
from svd_engine.deviations import CHANGES
from svd_engine.recipe import Recipe
from tests.workers.test_memory import order

README = Path(svd_engine.__file__).with_name("README.md")
LEGACY = (
    "clip_nearest",
    "noise_on_latents",
    "fps_not_reduced",
    "guidance_per_step",
    "timestep_minus_ln",
    "image_latents_first",
)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.from_pretrained(tiny)


def test_names() -> None:
    assert list(CHANGES) == list(CATALOGUE)
    assert RenderParams().deviations == ()
    assert RenderParams(deviations="legacy-v1").deviations == SETS["legacy-v1"] == LEGACY
    for given in ("sine_first+norm_eps", "norm_eps, sine_first", ["norm_eps", "sine_first"] * 2):
        assert RenderParams(deviations=given).deviations == ("sine_first", "norm_eps")
    with pytest.raises(
        ValidationError, match=r"Unknown deviation 'fps'\. Did you mean 'fps_not_reduced"
    ):
        RenderParams(deviations=("fps",))
    with pytest.raises(ValidationError):
        RenderParams(deviations=7)


def mistake_table() -> str:
    """The catalogue as `svd_engine/README.md` shows it."""
    rows = [("mistake", "what your port does", "what is right"), ("---",) * 3]
    rows += [(f"`{known.name}`", known.wrong, known.right) for known in CATALOGUE.values()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_readme_shows_the_catalogue() -> None:
    """Where this fails, put the table that it prints into the README."""
    table = mistake_table()
    assert table in README.read_text(), f"the README lacks:\n{table}"


def test_every_function_of_a_recipe_has_a_precise_type() -> None:
    """With `...` for its arguments, mypy would accept a deviation of any signature."""
    for name, annotation in get_type_hints(Recipe).items():
        arguments, result = get_args(annotation)
        assert isinstance(arguments, list), name
        assert Any not in (*arguments, result), name


def test_each_changes_the_clip_and_none_is_left_behind(
    engine: Engine, picture: Image.Image
) -> None:
    small = {"width": 64, "height": 48, "num_frames": 4, "num_inference_steps": 3}
    right = engine.render(picture, RenderParams(**small))
    for name in CATALOGUE:
        wrong = engine.render(picture, RenderParams(**small, deviations=(name,)))
        if name in ("decode_not_unscaled", "decoder_blend", "frames_truncated"):
            assert torch.equal(wrong.latents, right.latents)
            assert (wrong.frames != right.frames).any(), name
        else:
            assert not torch.equal(wrong.latents, right.latents), name
    again = engine.render(picture, RenderParams(**small))
    assert (again.frames == right.frames).all()


def test_they_are_part_of_the_digest(tiny: Path) -> None:
    task = Task("c", Stage.ENCODE)
    plain, wrong = (order(tiny, task, deviations=d).request for d in ((), ("norm_eps",)))
    assert plain.digest != wrong.digest
    assert wrong.clips()[0].params.deviations == ("norm_eps",)
