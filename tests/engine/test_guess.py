"""Names of a trace that are guessed by the shapes and the order of its tensors."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from svd_engine import Engine
from svd_engine.__main__ import main
from svd_engine.conformance.diagnose import diagnose
from svd_engine.conformance.findings import Verdict
from svd_engine.conformance.guess import guess_names, renamed, with_guessed_names
from svd_engine.conformance.replay import STAGES, Case
from svd_engine.conformance.report import report
from svd_engine.conformance.traces import AFTER, BEFORE, Trace, step_key
from svd_engine.deviations import recipe_of
from svd_engine.picture_pixels import CLIP_SIDE
from tests.support.traced import NAMES, STEPS, params_of


@pytest.fixture(params=[(name, guided) for name in NAMES for guided in (True, False)])
def case(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Case:
    """A case without a trace."""
    name, guided = request.param
    scales = {"min_guidance_scale": 1.0, "max_guidance_scale": 3.0 if guided else 1.0}
    params = params_of(name, engines[name], **scales)
    assert params.guided is guided
    image = Image.new("RGB", (72, 56))
    return Case(Trace({}), engines[name], image, params, torch.float32)


def steps_of(*kinds: str, steps: int = STEPS) -> list[str]:
    return [step_key(step, kind) for step in range(steps) for kind in kinds]


WHOLE = [*BEFORE, *steps_of("model_input", "model_output", "guided", "latents"), *AFTER]


def tensor(case: Case, key: str) -> Tensor:
    """A tensor of the shape that the README says."""
    params, (frames, channels, high, wide) = case.params, case.shape
    assert params.width is not None
    assert params.height is not None
    halves = 2 if params.guided else 1
    picture, latents = (3, params.height, params.width), (1, frames, channels, high, wide)
    unet = (halves, frames, channels, high, wide)
    shapes: dict[str, tuple[int, ...]] = {
        "clip.pixels": (1, 3, CLIP_SIDE, CLIP_SIDE),
        "clip.embedding": (1, 1, case.engine.unet.config.per_block("cross_attention_dim")[0]),
        "image.noise": (1, *picture),
        "image.augmented": (1, *picture),
        "image.latent": (1, channels, high, wide),
        "time_ids": (1, 3),
        "guidance": (frames,),
        "sigmas": (params.steps + 1,),
        "timesteps": (params.steps,),
        "decode.latents": (frames, channels, high, wide),
        "frames": (frames, *picture),
    }
    if key == "frames.uint8":
        return torch.zeros(frames, *picture[1:], 3, dtype=torch.uint8)
    if key.endswith("model_input"):
        return torch.zeros(halves, frames, 2 * channels, high, wide)
    return torch.zeros(unet if key.endswith("model_output") else shapes.get(key, latents))


def numbered(case: Case, names: list[str]) -> Case:
    """The case with a trace whose tensors are called t0, t1 and so on."""
    return replace(case, trace=Trace({f"t{n}": tensor(case, name) for n, name in enumerate(names)}))


def test_series_of_names_are_taken_step_by_step(case: Case) -> None:
    ours = {"image_embeds": "clip.embedding", "levels": "sigmas", "video": "frames"}
    ours |= {f"latents_{n + 1}": step_key(n, "latents") for n in range(STEPS)}
    if case.params.guided:  # otherwise the prediction and the latents have one shape
        ours |= {f"noise_pred_{n + 1}": step_key(n, "model_output") for n in range(STEPS)}
        ours |= {f"unet_{n + 1}_in": step_key(n, "model_input") for n in range(STEPS)}
    tensors = {own: tensor(case, name) for own, name in ours.items()}
    tensors |= {f"extra_{n}": torch.zeros(9, 9) for n in range(STEPS)}
    assert guess_names(replace(case, trace=Trace(tensors))) == ours


USUAL = {
    "whole": WHOLE,
    "step latents": steps_of("latents"),
    "latents": ["latents.init", *steps_of("latents")],
    "the UNet": steps_of("model_input", "model_output"),
    "the UNet and latents": ["latents.init", *steps_of("model_input", "model_output", "latents")],
    "before": list(BEFORE),
    "frames": ["frames"],
    "bytes": ["frames.uint8"],
    "after": list(AFTER),
    "ends": ["image.latent", "latents.init", "decode.latents", "frames"],
    "the schedule": ["sigmas", "timesteps"],
}


@pytest.mark.parametrize("names", USUAL.values(), ids=USUAL)
def test_what_is_usually_recorded_gets_its_names(names: list[str], case: Case) -> None:
    expected = {f"t{n}": name for n, name in enumerate(names)}
    assert guess_names(numbered(case, names)) == expected


def test_other_tensors_get_no_name(case: Case) -> None:
    whole = numbered(case, WHOLE)
    others = {"t4b": torch.zeros(5, 77), "a": torch.zeros(2), "z": torch.zeros(9, 9, 9)}
    mixed = replace(whole, trace=Trace({**whole.trace, **others}))
    assert guess_names(mixed) == guess_names(whole)
    named = with_guessed_names(mixed)
    assert set(named.trace) == {*WHOLE, *others}


def test_known_names_stay(case: Case) -> None:
    known = {name: tensor(case, name) for name in WHOLE}
    assert guess_names(replace(case, trace=Trace(known))) == {}
    # A block of a network is known by its name, and is never taken for a stage.
    block = {"unet.conv_in": tensor(case, "latents.init")}
    assert guess_names(replace(case, trace=Trace(block))) == {}
    first, last = tensor(case, "latents.init"), tensor(case, "decode.latents")
    both = Trace({"latents.init": first, "x1": last[None], "time_ids": torch.zeros(9)})
    named = with_guessed_names(replace(case, trace=both))
    assert named.guessed == {"x1": "decode.latents"}
    assert set(named.trace) == {"latents.init", "decode.latents", "time_ids"}
    assert named.trace["latents.init"] is first


def test_bytes_that_were_saved_as_numbers_are_told_from_frames(case: Case) -> None:
    shape = tensor(case, "frames").movedim(1, -1).shape
    for values, name in ((torch.rand(shape), "frames"), (torch.full(shape, 7.0), "frames.uint8")):
        assert guess_names(replace(case, trace=Trace({"x": values}))) == {"x": name}


def test_names_with_the_same_numbers_keep_one_order(case: Case) -> None:
    """t1 and t01 are read alike."""
    sigmas, timesteps = tensor(case, "sigmas"), tensor(case, "timesteps")
    for trace in (Trace({"t01": sigmas, "t1": timesteps}), Trace({"t1": timesteps, "t01": sigmas})):
        assert guess_names(replace(case, trace=trace)) == {"t01": "sigmas", "t1": "timesteps"}


def test_a_trace_of_25_steps_takes_little_time(case: Case) -> None:
    params = case.params.model_copy(update={"num_inference_steps": 25})
    every = steps_of("model_input", "model_output", "guided", "latents", steps=25)
    names = [*BEFORE, *every, *AFTER]
    long = numbered(replace(case, params=params), names)
    began = time.process_time()
    found = guess_names(long)
    assert time.process_time() - began < 1
    assert list(found.values()) == names


def test_tensors_in_one_file_are_renamed(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    Trace({"a": torch.ones(1), "b": torch.zeros(1)}).save(path)
    found = renamed(Trace({"a": path, "b": path}), {"a": "sigmas"})
    assert {key: float(found[key]) for key in found} == {"sigmas": 1.0, "b": 0.0}


def test_a_guess_is_said_to_be_one(case: Case) -> None:
    right = {name: STAGES[name](case, recipe_of(case.params), 0) for name in ("time_ids", "sigmas")}
    theirs = Trace({"t0": right["time_ids"][0], "t1": right["sigmas"], "t2": torch.zeros(9, 9)})
    found = diagnose(with_guessed_names(replace(case, trace=theirs)))
    notes = {finding.key: (finding.verdict, finding.note) for finding in found.findings}
    assert notes == {
        "time_ids": (Verdict.RIGHT, "as [3], name guessed by shape and order: t0"),
        "sigmas": (Verdict.RIGHT, "name guessed by shape and order: t1"),
    }
    assert found.as_json()["guessed"] == {"t0": "time_ids", "t1": "sigmas"}
    assert (found.not_judged, found.exit_status) == (("t2",), 2)
    assert "t0 as time_ids, t1 as sigmas" in "\n".join(report(found))


def test_the_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (72, 56)).save(tmp_path / "picture.png")
    (tmp_path / "theirs").mkdir()
    np.save(tmp_path / "theirs/ids.npy", np.array([[6.0, 127.0, 0.02]], np.float32))
    command = ["diagnose", str(tmp_path / "theirs"), "--picture", str(tmp_path / "picture.png")]
    command += ["--model", str(tiny), "--fps", "7"]
    assert main(command) == 0
    assert "name guessed by shape and order: ids" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["guessed"] == {"ids": "time_ids"}
