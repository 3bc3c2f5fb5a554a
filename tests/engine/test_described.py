"""Departures that no mistake explains are described, and given no wrong name."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from svd_engine import Engine
from svd_engine.conformance.epsilons import KINDS, NETWORKS
from svd_engine.conformance.findings import Verdict
from svd_engine.conformance.judge import judge_tensor
from svd_engine.conformance.replay import STAGES
from svd_engine.conformance.report import relation_of
from svd_engine.conformance.traces import Trace, split_key
from svd_engine.deviations import all_set, recipe_of
from tests.support.other_mistakes import PLANTED, Planted, outcome
from tests.support.traced import NAMES, case_of, diagnosed, params_of, some_by_default, trace


@pytest.mark.parametrize(
    ("name", "planted"),
    some_by_default(PLANTED, one_in=24),
)
def test_other_mistakes_are_located_and_described(
    name: str,
    planted: Planted,
    right: dict[str, Trace],
    engines: dict[str, Engine],
    large_picture: Image.Image,
) -> None:
    engine = engines[name]
    made = outcome(planted, right[name], engine, large_picture, params_of(name, engine))
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
    some_by_default(CHANGED, one_in=4),
)
def test_no_departure_is_given_a_wrong_name(
    name: str,
    how: str,
    right: dict[str, Trace],
    engines: dict[str, Engine],
    large_picture: Image.Image,
) -> None:
    """A change that is no mistake of the catalogue must not be named as one."""
    engine, params, named = engines[name], params_of(name, engines[name]), {}
    other = right[name]
    if how == "of another picture":
        turned = large_picture.transpose(Image.Transpose.ROTATE_90).resize(large_picture.size)
        other = trace(engine, turned, params)
    for key, needed in FREE.items():
        tensors = {other_key: right[name][other_key] for other_key in (*needed, key)}
        change = CHANGED[how]
        tensors[key] = other[key] if change is None else change(tensors[key])
        if key == "time_ids" and sorted(tensors[key][0]) == sorted(right[name][key][0]):
            continue  # another order of them is a mistake of the catalogue
        found = diagnosed(Trace(tensors), engine, large_picture, params)
        if found.deviations:
            named[key] = found.deviations
    assert named == {}


@pytest.mark.parametrize("order", [(2, 0, 1), (0, 2, 1)])
def test_time_ids_in_any_order(
    order: tuple[int, ...],
    right: dict[str, Trace],
    engines: dict[str, Engine],
    large_picture: Image.Image,
) -> None:
    name = NAMES[0]
    tensors = {"time_ids": right[name]["time_ids"][:, list(order)]}
    found = diagnosed(Trace(tensors), engines[name], large_picture, params_of(name, engines[name]))
    assert found.deviations == ("time_ids_order",)


# A tensor, the norms of its network, and an epsilon that they do not have.
EPSILONS = (
    ("clip.embedding", "layer norms", 1e-6),
    ("clip.embedding", "layer norms", 1e-3),
    ("image.latent", "group norms", 1e-5),
    ("step.001.model_output", "group norms", 1e-6),
    ("step.001.model_output", "group norms", 1e-4),
    ("step.001.model_output", "layer norms", 1e-3),
    ("frames", "group norms", 1e-5),
    ("frames", "group norms", 1e-12),
)


@pytest.mark.parametrize(("key", "norms", "epsilon"), EPSILONS)
def test_another_epsilon_is_described(
    key: str,
    norms: str,
    epsilon: float,
    right: dict[str, Trace],
    engines: dict[str, Engine],
    large_picture: Image.Image,
) -> None:
    """It changes a tensor by 1e-5 to 1e-2: by too little to count as wrong, were it rounding."""
    name = NAMES[0]
    engine, params = engines[name], params_of(name, engines[name])
    stage, step = split_key(key)
    case = case_of(right[name], engine, large_picture, params)
    with all_set(NETWORKS[stage](engine), KINDS[norms], "eps", epsilon):
        tensor = STAGES[stage](case, recipe_of(params), step or 0)
    wrong = replace(case, trace=Trace({**right[name], key: tensor}))
    found = judge_tensor(wrong, key, stage, step or 0)
    assert found.verdict is Verdict.UNEXPLAINED
    assert f"an epsilon of {max(epsilon, 1e-8):g}" in relation_of(found)
    assert f"in all {norms}" in relation_of(found)


@pytest.mark.parametrize("key", sorted({key for key, _, _ in EPSILONS}))
def test_noise_is_no_epsilon(
    key: str, right: dict[str, Trace], engines: dict[str, Engine], large_picture: Image.Image
) -> None:
    """What another order of sums, or TF32, leaves in a network is right."""
    name, tensor = NAMES[0], right[NAMES[0]][key]
    off = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5))
    trace = Trace({**right[name], key: tensor + 1e-3 * tensor.std() * off})
    case = case_of(trace, engines[name], large_picture, params_of(name, engines[name]))
    stage, step = split_key(key)
    assert judge_tensor(case, key, stage, step or 0).verdict is Verdict.RIGHT
