"""What of a trace is judged, at which steps, and what is said of the rest."""

from typing import Any

import pytest
import torch
from PIL import Image

from svd_engine import Engine
from svd_engine.conformance.findings import Verdict
from svd_engine.conformance.replay import STAGES, UNET
from svd_engine.conformance.report import report
from svd_engine.conformance.traces import Trace
from tests.support.traced import NAMES, diagnosed, params_of, trace


def test_other_layouts_are_said_to_be(
    right: dict[str, Trace], engines: dict[str, Engine], large_picture: Image.Image
) -> None:
    name = NAMES[0]
    tensors = {key: right[name][key] for key in right[name]}
    tensors["step.000.model_output"] = tensors["step.000.model_output"].flatten(0, 1)
    tensors["latents.init"] = tensors["latents.init"].transpose(1, 2)
    tensors["frames"] = tensors["frames"].permute(0, 2, 3, 1)
    found = diagnosed(Trace(tensors), engines[name], large_picture, params_of(name, engines[name]))
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
    large_picture: Image.Image,
) -> None:
    name = NAMES[0]
    params = params_of(name, engines[name], deviations=mistakes)
    whole = trace(engines[name], large_picture, params, only=list(keys))
    assert set(whole) == set(keys)
    found = diagnosed(whole, engines[name], large_picture, params)
    assert (found.deviations, found.exit_status) == (named, status)
    assert "frames" in found.record_next
    assert ("step.001.model_output" in found.record_next) == (status == 2)


def test_what_has_no_known_shape_is_told_apart(
    engines: dict[str, Engine], large_picture: Image.Image
) -> None:
    name = NAMES[0]
    params = params_of(name, engines[name])
    right = trace(engines[name], large_picture, params)
    odd = {"guidance": torch.tensor([3.0]), "time_ids": torch.ones(4)}
    found = diagnosed(Trace({**right, **odd}), engines[name], large_picture, params)
    unknown = {f.key for f in found.findings if f.verdict is Verdict.UNKNOWN}
    assert {"time_ids", "guidance"} <= unknown
    assert found.deviations == ()


def test_what_no_mistake_explains_is_said(
    right: dict[str, Trace], engines: dict[str, Engine], large_picture: Image.Image
) -> None:
    name = NAMES[0]
    tensors = {key: right[name][key] for key in right[name]}
    tensors["step.002.guided"] = tensors["step.002.guided"] * 1.5
    tensors["clip.embedding"] = torch.full_like(tensors["clip.embedding"], torch.nan)
    params = params_of(name, engines[name])
    found = diagnosed(Trace(tensors), engines[name], large_picture, params, steps_judged=1)
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
    what: str, right: dict[str, Trace], engines: dict[str, Engine], large_picture: Image.Image
) -> None:
    name, key = NAMES[0], f"step.001.{what}"
    theirs = wrong_at(right[name], key)
    params = params_of(name, engines[name])
    found = diagnosed(theirs, engines[name], large_picture, params, steps_judged=1)
    first = next(finding for finding in found.findings if finding.departs)
    assert (first.key, found.deviations, found.exit_status) == (key, (), 2)


KINDS = ("model_input", "model_output")


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
    large_picture: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With another stage in the UNet's place, which takes no time."""
    name, steps, what = NAMES[0], 7, "model_output"
    params = params_of(name, engines[name], num_inference_steps=steps, num_frames=1)
    output = torch.randn(2, 1, 4, 7, 9, generator=torch.Generator().manual_seed(1))
    monkeypatch.setitem(STAGES, UNET, lambda *_: output)
    ours = {f"step.{step:03d}.{kind}": output for step in range(steps) for kind in KINDS}
    theirs = wrong_at(Trace(ours), *(f"step.{step:03d}.{what}" for step in wrong))
    found = diagnosed(theirs, engines[name], large_picture, params, steps_judged=count)
    keys = [f.key for f in found.findings if f.key.endswith(what)]
    assert keys == [f"step.{step:03d}.{what}" for step in judged]
    left_out = [step for step in range(steps) if step not in judged]
    assert found.not_judged == tuple(f"step.{step:03d}.{what}" for step in left_out)
    departs = [f.key for f in found.findings if f.departs and f.key.endswith(what)]
    if wrong and set(wrong) & set(judged):
        assert departs[0] == f"step.{wrong[0]:03d}.{what}"
    text = "\n".join(report(found))
    assert ("--steps-judged all" in text) == bool(left_out)
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
    large_picture: Image.Image,
) -> None:
    name = NAMES[0]
    ((key, tensor),) = other.items()
    theirs = Trace({"time_ids": right[name]["time_ids"], key: tensor})
    found = diagnosed(theirs, engines[name], large_picture, params_of(name, engines[name]))
    assert found.exit_status == 2
    text = "\n".join(report(found))
    assert "recorded but not judged" in text
    assert key in text
    unknown = [f.key for f in found.findings if f.verdict is Verdict.UNKNOWN]
    assert key in (*found.not_judged, *unknown)
    assert found.as_json()["not_judged"] == list(found.not_judged)
