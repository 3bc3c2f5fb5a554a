"""Diagnosis of mistakes, alone and in pairs, without false findings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from svd_engine import Engine
from svd_engine.conformance.judge import Verdict
from svd_engine.conformance.report import report, right_line
from svd_engine.conformance.traces import Trace
from svd_engine.deviation_catalogue import CATALOGUE
from tests.conftest import draw_picture
from tests.support.other_mistakes import PLANTED, Planted, outcome
from tests.support.traced import (
    diagnosed,
    misnamed,
    noisy,
    params_of,
    random_pairs,
    reference_trace,
    trace,
)

NAMES = ("shallow", "three-levels")
checkpoints_ = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Large enough to be blurred for CLIP."""
    return draw_picture(640, 400)


@pytest.fixture(scope="module")
def engines(checkpoints: dict[str, Path]) -> dict[str, Engine]:
    return {name: Engine.from_pretrained(checkpoints[name]) for name in NAMES}


@pytest.fixture(scope="module")
def right(engines: dict[str, Engine], picture: Image.Image) -> dict[str, Trace]:
    return {
        name: trace(engine, picture, params_of(name, engine)) for name, engine in engines.items()
    }


@pytest.mark.parametrize(
    ("name", "deviation"),
    [  # on one checkpoint by default, on the other as well where time is no matter
        pytest.param(name, deviation, marks=[pytest.mark.slow] if (n + m) % 2 else [])
        for n, name in enumerate(NAMES)
        for m, deviation in enumerate(CATALOGUE)
    ],
)
def test_each_mistake_alone(
    name: str, deviation: str, engines: dict[str, Engine], picture: Image.Image
) -> None:
    engine = engines[name]
    params = params_of(name, engine, deviations=deviation)
    found = diagnosed(trace(engine, picture, params), engine, picture, params)
    assert found.deviations == (deviation,)
    assert found.exit_status == 1
    assert Verdict.UNEXPLAINED not in {finding.verdict for finding in found.findings}
    assert CATALOGUE[deviation].right in "\n".join(report(found))


@pytest.mark.parametrize(
    ("count", "may_be_missed"), [(4, 0), pytest.param(40, 4, marks=pytest.mark.slow)]
)
def test_random_pairs(
    count: int, may_be_missed: int, engines: dict[str, Engine], picture: Image.Image
) -> None:
    pairs = random_pairs(count)
    missed = [
        case
        for number, name in enumerate(NAMES)
        for case in misnamed(engines[name], name, picture, pairs[number :: len(NAMES)])
    ]
    assert len(missed) <= may_be_missed, missed


@checkpoints_
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffusers_makes_no_mistake(
    name: str,
    dtype: torch.dtype,
    engines: dict[str, Engine],
    checkpoints: dict[str, Path],
    picture: Image.Image,
) -> None:
    params = params_of(name, engines[name])
    theirs = reference_trace(checkpoints[name], picture, params, dtype)
    found = diagnosed(theirs, engines[name], picture, params, dtype)
    assert (found.deviations, found.exit_status, found.record_next) == ((), 0, ())
    assert {finding.verdict for finding in found.findings} == {Verdict.RIGHT}


@checkpoints_
def test_noise_is_no_mistake(
    name: str, right: dict[str, Trace], engines: dict[str, Engine], picture: Image.Image
) -> None:
    params = params_of(name, engines[name])
    found = diagnosed(noisy(right[name]), engines[name], picture, params)
    assert (found.deviations, found.exit_status) == ((), 0)


def test_a_mistake_shows_in_half_precision(
    checkpoints: dict[str, Path], engines: dict[str, Engine], picture: Image.Image
) -> None:
    name, dtype = NAMES[0], torch.bfloat16
    half = Engine.from_pretrained(checkpoints[name], dtype=dtype)
    pair = ("fps_not_reduced", "halves_swapped")
    params = params_of(name, half, deviations=pair)
    theirs = trace(half, picture, params)
    assert diagnosed(theirs, engines[name], picture, params, dtype).deviations == pair


def test_other_layouts_are_said_to_be(
    right: dict[str, Trace], engines: dict[str, Engine], picture: Image.Image
) -> None:
    name = NAMES[0]
    tensors = {key: right[name][key] for key in right[name]}
    tensors["step.000.model_output"] = tensors["step.000.model_output"].flatten(0, 1)
    tensors["latents.init"] = tensors["latents.init"].transpose(1, 2)
    tensors["frames"] = tensors["frames"].permute(0, 2, 3, 1)
    found = diagnosed(Trace(tensors), engines[name], picture, params_of(name, engines[name]))
    notes = {finding.key: finding.note for finding in found.findings}
    assert notes["step.000.model_output"] == "as [B*F, C, H, W]"
    assert notes["latents.init"] == "as [B, C, F, H, W]"
    assert notes["frames"] == "channels last"
    assert found.exit_status == 0


@pytest.mark.parametrize(
    ("keys", "mistakes", "named", "status"),
    [
        (("time_ids",), ("fps_not_reduced",), ("fps_not_reduced",), 1),
        (("time_ids", "sigmas", "latents.init"), (), (), 0),
        (("step.001.guided",), ("halves_swapped",), (), 2),  # the model's output is missing
    ],
)
def test_a_partial_trace_gives_a_partial_answer(
    keys: tuple[str, ...],
    mistakes: Any,
    named: Any,
    status: int,
    engines: dict[str, Engine],
    picture: Image.Image,
) -> None:
    name = NAMES[0]
    params = params_of(name, engines[name], deviations=mistakes)
    whole = trace(engines[name], picture, params, only=list(keys))
    assert set(whole) == set(keys)
    found = diagnosed(whole, engines[name], picture, params)
    assert (found.deviations, found.exit_status) == (named, status)
    assert "frames" in found.record_next
    assert ("step.001.model_output" in found.record_next) == (status == 2)


def test_what_has_no_known_shape_is_told_apart(
    engines: dict[str, Engine], picture: Image.Image
) -> None:
    name = NAMES[0]
    params = params_of(name, engines[name])
    right = trace(engines[name], picture, params)
    odd = {"guidance": torch.tensor([3.0]), "time_ids": torch.ones(4)}
    found = diagnosed(Trace({**right, **odd}), engines[name], picture, params)
    unknown = {f.key for f in found.findings if f.verdict is Verdict.UNKNOWN}
    assert {"time_ids", "guidance"} <= unknown
    assert found.deviations == ()


def test_noise_of_another_generator(
    engines: dict[str, Engine], picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn cannot be known; how it is used can."""
    name = NAMES[0]
    engine, draw, generator = engines[name], torch.randn, torch.Generator().manual_seed(99)

    def other(*args: Any, **kwargs: Any) -> Any:
        return draw(*args, **{**kwargs, "generator": generator})

    for mistakes in ((), ("posterior_sampled",), ("noise_on_latents",), ("initial_scale_missing",)):
        params = params_of(name, engine, deviations=mistakes, noise_aug_strength=0.3)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", other)
            theirs = trace(engine, picture, params)
        found = diagnosed(theirs, engine, picture, params)
        assert found.deviations == mistakes
        assert Verdict.UNEXPLAINED not in {finding.verdict for finding in found.findings}


def test_what_no_mistake_explains_is_said(
    right: dict[str, Trace], engines: dict[str, Engine], picture: Image.Image
) -> None:
    name = NAMES[0]
    tensors = {key: right[name][key] for key in right[name]}
    tensors["step.002.guided"] = tensors["step.002.guided"] * 1.5
    tensors["clip.embedding"] = torch.full_like(tensors["clip.embedding"], torch.nan)
    found = diagnosed(Trace(tensors), engines[name], picture, params_of(name, engines[name]))
    verdicts = {finding.key: finding.verdict for finding in found.findings}
    assert verdicts["clip.embedding"] is Verdict.UNEXPLAINED
    assert verdicts["step.000.model_output"] is Verdict.UNKNOWN  # of that embedding
    assert verdicts["step.002.guided"] is Verdict.UNEXPLAINED
    assert (found.deviations, found.exit_status) == ((), 2)
    assert "no known mistake explains it: clip.embedding" in "\n".join(report(found))


def wrong_at(theirs: Trace, *keys: str) -> Trace:
    """A copy in which some tensors are mirrored."""
    return Trace({key: theirs[key].flip(-1) if key in keys else theirs[key] for key in theirs})


@pytest.mark.parametrize("what", ["model_input", "guided", "latents"])
def test_cheap_stages_are_judged_at_every_step(
    what: str, right: dict[str, Trace], engines: dict[str, Engine], picture: Image.Image
) -> None:
    name, key = NAMES[0], f"step.001.{what}"
    theirs = wrong_at(right[name], key)
    found = diagnosed(theirs, engines[name], picture, params_of(name, engines[name]))
    first = next(finding for finding in found.findings if finding.departs)
    assert (first.key, found.deviations, found.exit_status) == (key, (), 2)


@pytest.mark.parametrize(
    ("count", "wrong", "judged"),
    [
        (1, (), [0]),
        (2, (), [0, 6]),
        (3, (), [0, 3, 6]),
        (None, (), list(range(7))),
        (2, (0, 1, 2, 3, 4, 5, 6), [0, 6]),
        (2, (2, 3, 4, 5, 6), [0, 1, 2, 3, 6]),
        (2, (6,), [0, 3, 5, 6]),
        (2, (3,), [0, 6]),  # what is between is not known, and said not to be
    ],
)
def test_the_unet_is_judged_at_some_steps(
    count: int | None,
    wrong: tuple[int, ...],
    judged: list[int],
    engines: dict[str, Engine],
    picture: Image.Image,
) -> None:
    name, steps, what = NAMES[0], 7, "model_output"
    params = params_of(name, engines[name], num_inference_steps=steps, num_frames=1)
    kept = ["clip.embedding", "time_ids", "timesteps", "step.*.model_*"]
    ours = trace(engines[name], picture, params, only=kept)
    theirs = wrong_at(ours, *(f"step.{step:03d}.{what}" for step in wrong))
    found = diagnosed(theirs, engines[name], picture, params, steps_judged=count)
    keys = [f.key for f in found.findings if f.key.endswith(what)]
    assert keys == [f"step.{step:03d}.{what}" for step in judged]
    left_out = [step for step in range(steps) if step not in judged]
    assert found.not_judged == tuple(f"step.{step:03d}.{what}" for step in left_out)
    departs = [f.key for f in found.findings if f.departs and f.key.endswith(what)]
    if wrong and set(wrong) & set(judged):
        assert departs[0] == f"step.{wrong[0]:03d}.{what}"
    said = "\n".join(report(found))
    assert ("--steps-judged all" in said) == bool(left_out)
    assert found.exit_status == 2  # the inputs of the UNet cannot be judged in this trace


@pytest.mark.parametrize(
    "other",
    [
        {"vae.mid": torch.ones(3)},
        {"step.009.latents": torch.ones(3)},
        {"step.001.x": torch.ones(3)},
    ],
)
def test_nothing_recorded_is_passed_over(
    other: dict[str, Any],
    right: dict[str, Trace],
    engines: dict[str, Engine],
    picture: Image.Image,
) -> None:
    name = NAMES[0]
    ((key, tensor),) = other.items()
    theirs = Trace({"time_ids": right[name]["time_ids"], key: tensor})
    found = diagnosed(theirs, engines[name], picture, params_of(name, engines[name]))
    assert found.exit_status == 2
    said = "\n".join(report(found))
    assert "recorded and not judged" in said
    assert key in said
    unknown = [f.key for f in found.findings if f.verdict is Verdict.UNKNOWN]
    assert key in (*found.not_judged, *unknown)
    assert found.as_json()["not_judged"] == list(found.not_judged)


@pytest.mark.parametrize(
    ("name", "planted"),
    [  # some by default, all on both checkpoints where time is no matter
        pytest.param(name, planted, id=f"{name}-{planted.name}", marks=marks)
        for n, name in enumerate(NAMES)
        for m, planted in enumerate(PLANTED)
        for marks in ([] if m % 24 == 12 * n else [pytest.mark.slow],)
    ],
)
def test_other_mistakes_are_located_and_described(
    name: str,
    planted: Planted,
    right: dict[str, Trace],
    engines: dict[str, Engine],
    picture: Image.Image,
) -> None:
    engine = engines[name]
    made = outcome(planted, right[name], engine, picture, params_of(name, engine))
    assert made.located == planted.key
    assert made.found.deviations == ()
    assert planted.says in made.described
    assert made.found.exit_status == 2


# What each tensor is judged from, beside itself.
FREE = {
    "image.noise": (),
    "image.augmented": (),
    "image.latent": ("image.augmented",),
    "latents.init": ("sigmas",),
    "clip.pixels": (),
    "time_ids": (),
    "sigmas": (),
    "timesteps": ("sigmas",),
    "guidance": (),
    "step.001.model_input": ("image.latent", "step.000.latents", "sigmas"),
    "step.001.guided": ("step.001.model_output", "guidance"),
    "step.001.latents": ("step.001.guided", "step.000.latents", "sigmas"),
    "decode.latents": ("step.002.latents",),
    "frames.uint8": ("frames",),
}
MORE = 1.25
CHANGED: dict[str, Any] = {
    "mirrored": lambda x: x.flip(-1),
    "upside down": lambda x: x.flip(-2 if x.ndim > 2 else -1),
    "shifted": lambda x: x.roll(1, -1),
    "shifted down": lambda x: x.roll(1, -2 if x.ndim > 2 else -1),
    "half shifted": lambda x: (x.float() + x.float().roll(1, -1)) / 2,
    "less": lambda x: x.float() / MORE,
    "more": lambda x: x.float() * MORE,
    "turned": lambda x: -x.float(),
    "raised": lambda x: x.float() + x.float().square().mean().sqrt(),
    "other channels": lambda x: x.roll(1, -3 if x.ndim > 2 else -1),
    "shuffled": lambda x: x.flatten()[
        torch.randperm(x.numel(), generator=torch.Generator().manual_seed(3))
    ].reshape(x.shape),
    "smoothed": lambda x: (x.float() + x.float().roll(1, -1) + x.float().roll(-1, -1)) / 3,
    "of another picture": None,
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=[pytest.mark.slow] if (n + m) % 2 else [])
        for n, name in enumerate(NAMES)
        for m, how in enumerate(CHANGED)
    ],
)
def test_no_departure_is_given_a_wrong_name(
    name: str,
    how: str,
    right: dict[str, Trace],
    engines: dict[str, Engine],
    picture: Image.Image,
) -> None:
    """A change that is no mistake of the catalogue must not be named as one."""
    engine, params, named = engines[name], params_of(name, engines[name]), {}
    other = right[name]
    if how == "of another picture":
        turned = picture.transpose(Image.Transpose.ROTATE_90).resize(picture.size)
        other = trace(engine, turned, params)
    for key, needed in FREE.items():
        tensors = {other_key: right[name][other_key] for other_key in (*needed, key)}
        change = CHANGED[how]
        tensors[key] = other[key] if change is None else change(tensors[key])
        if key == "time_ids" and sorted(tensors[key][0]) == sorted(right[name][key][0]):
            continue  # another order of them is a mistake of the catalogue
        found = diagnosed(Trace(tensors), engine, picture, params)
        if found.deviations:
            named[key] = found.deviations
    assert named == {}


@pytest.mark.parametrize("order", [(2, 0, 1), (0, 2, 1)])
def test_time_ids_in_any_order(
    order: tuple[int, ...],
    right: dict[str, Trace],
    engines: dict[str, Engine],
    picture: Image.Image,
) -> None:
    name = NAMES[0]
    tensors = {"time_ids": right[name]["time_ids"][:, list(order)]}
    found = diagnosed(Trace(tensors), engines[name], picture, params_of(name, engines[name]))
    assert found.deviations == ("time_ids_order",)


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_right_line_is_there(name: str) -> None:
    place, function = right_line(name).split()
    file, line = place.split(":")
    text = (Path(__file__).parents[2] / file).read_text().splitlines()[int(line) - 1]
    assert f" {function}(" in text
