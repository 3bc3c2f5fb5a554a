"""Traces: recorded, written, read in other formats, and compared on the command line."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from svd_engine import Engine
from svd_engine.__main__ import main
from svd_engine.conformance.compare import compare
from svd_engine.conformance.traces import Trace, TraceError, align, open_trace
from tests.support.reference import SPECS
from tests.support.traced import params_of, reference_trace, trace

NAME = "shallow"
F, H, W, D, S = 5, 56, 72, 32, 3
SHAPES = {
    "clip.pixels": (1, 3, 224, 224),
    "clip.embedding": (1, 1, D),
    "image.noise": (1, 3, H, W),
    "image.augmented": (1, 3, H, W),
    "image.latent": (1, 4, H // 8, W // 8),
    "time_ids": (1, 3),
    "guidance": (F,),
    "sigmas": (S + 1,),
    "timesteps": (S,),
    "latents.init": (1, F, 4, H // 8, W // 8),
    **{
        f"step.{step:03d}.{what}": shape
        for step in range(S)
        for what, shape in {
            "model_input": (2, F, 8, H // 8, W // 8),
            "model_output": (2, F, 4, H // 8, W // 8),
            "guided": (1, F, 4, H // 8, W // 8),
            "latents": (1, F, 4, H // 8, W // 8),
        }.items()
    },
    "decode.latents": (F, 4, H // 8, W // 8),
    "frames": (F, 3, H, W),
    "frames.uint8": (F, H, W, 3),
}


@pytest.fixture(scope="module")
def ours(engine: Engine, picture: Image.Image) -> Trace:
    return trace(engine, picture, params_of(NAME, engine))


def options(folder: Path, *more: str) -> list[str]:
    values = {"width": W, "height": H, "seed": 11, "steps": S}
    named = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return ["--model", str(folder), *named, *more]


def test_every_tensor_in_order(ours: Trace) -> None:
    assert {key: tuple(ours[key].shape) for key in ours} == SHAPES
    assert list(ours) == list(SHAPES)
    assert ours["frames.uint8"].dtype == torch.uint8


@pytest.mark.parametrize("name", SPECS)
def test_diffusers_gives_the_same(
    name: str, checkpoints: dict[str, Path], picture: Image.Image
) -> None:
    engine = Engine.from_pretrained(checkpoints[name])
    params = params_of(name, engine)
    theirs = reference_trace(checkpoints[name], picture, params, torch.float32)
    comparison = compare(theirs, trace(engine, picture, params))
    assert comparison.first_departure is None
    assert comparison.only_first == comparison.only_second == ()
    assert len(comparison.rows) == len(SHAPES)


def test_sigmas_are_diffusers_too(
    engine: Engine, checkpoints: dict[str, Path], picture: Image.Image
) -> None:
    params = params_of(NAME, engine, sigmas=(80.0, 10.0, 0.5))
    theirs = reference_trace(checkpoints[NAME], picture, params, torch.float32)
    comparison = compare(theirs, trace(engine, picture, params))
    assert comparison.first_departure is None
    assert comparison.only_first == comparison.only_second == ()


def test_the_command_line(
    checkpoints: dict[str, Path],
    picture: Image.Image,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = checkpoints[NAME]
    image = tmp_path / "picture.png"
    picture.save(image)
    files = {}
    for which in ("engine", "diffusers"):
        files[which] = tmp_path / f"{which}.safetensors"
        how = ("--implementation", which, "--out", str(files[which]))
        assert main(["trace", str(image), *options(folder, *how)]) == 0
    with safe_open(files["engine"], "pt") as file:
        header = {k: json.loads(v) for k, v in file.metadata().items() if k != "format"}
    assert header["params"]["seed"] == header["seed"] == 11
    assert len(header["model_digest"]) == 64
    assert header["versions"]["torch"] == torch.__version__
    assert "svd_engine" in header["command"]
    stages = [entry["stage"] for entry in header["memory"]]
    assert stages == ["load", "encode", "step 0", "step 1", "step 2", "decode"]
    assert all(entry["process_mb"] > 10 for entry in header["memory"])

    page = tmp_path / "page.html"
    both = [str(files["engine"]), str(files["diffusers"])]
    capsys.readouterr()
    assert main(["compare", *both, "--html", str(page)]) == 0
    assert "alike: 25 tensors" in capsys.readouterr().out
    assert page.read_text().count("data:image/png") == 3 * (1 + 1 + 3 + 3 + 3)

    theirs = ["diagnose", both[1], "--picture", str(image), "--model", str(folder)]
    assert main([*theirs, "--steps-judged", "all"]) == 0  # what was asked is in the header
    assert "nothing wrong in what was recorded" in capsys.readouterr().out
    assert main(theirs) == 2
    assert "judged at step 0, 2, but not at step 1" in capsys.readouterr().out
    assert main([*theirs, "--steps-judged", "none"]) == 2
    assert "give a number from 1 on, or all" in capsys.readouterr().err
    assert main([*theirs, "--fps", "8", "--json"]) == 2  # no mistake gives what was not asked for
    output = json.loads(capsys.readouterr().out)
    assert output["deviations"] == []
    assert [s["key"] for s in output["stages"] if s["verdict"] == "unexplained"] == ["time_ids"]


def test_kept_small(engine: Engine, picture: Image.Image) -> None:
    params = params_of(NAME, engine)
    kept = trace(engine, picture, params, only=["step.*.latents", "time_ids"], at={0, 2})
    assert list(kept) == ["time_ids", "step.000.latents", "step.002.latents"]


def test_a_folder_of_tensors(ours: Trace, tmp_path: Path) -> None:
    for key in ours:
        if key == "frames":
            save_file({"anything": ours[key]}, tmp_path / f"{key}.safetensors")
        elif key.startswith("step.000"):
            continue
        else:
            np.save(tmp_path / f"{key}.npy", ours[key].numpy())
    first = {key: ours[key].contiguous() for key in ours if key.startswith("step.000")}
    save_file(first, tmp_path / "the first step.safetensors")
    (tmp_path / "notes.txt").write_text("mine")
    read = open_trace(tmp_path)
    assert list(read) == list(ours)
    assert compare(ours, read).as_json()["alike"]


def test_the_first_departure(ours: Trace) -> None:
    tensors = {key: ours[key] for key in ours}
    tensors["step.001.guided"] = tensors["step.001.guided"] + 1
    tensors["step.000.latents"] = tensors["step.000.latents"].flatten(0, 1)
    tensors["image.noise"] = tensors["image.noise"][:, :, 1:]
    del tensors["time_ids"]
    tensors["mine"] = torch.zeros(1)
    comparison = compare(ours, Trace(tensors))
    departed = [row.key for row in comparison.rows if row.departs]
    assert departed == ["image.noise", "step.001.guided"]
    assert comparison.only_first == ("time_ids",)
    assert comparison.only_second == ("mine",)
    notes = {row.key: row.note for row in comparison.rows}
    assert notes["image.noise"] == "the second is [1, 3, 55, 72]: of another shape"
    assert notes["step.000.latents"] == "as [5, 4, 7, 9]"


@pytest.mark.parametrize(
    ("theirs", "shape", "note"),
    [
        ((10, 4, 6, 8), (2, 5, 4, 6, 8), "as [B*F, C, H, W]"),
        ((2, 4, 5, 6, 8), (2, 5, 4, 6, 8), "as [B, C, F, H, W]"),
        ((5, 6, 8, 3), (5, 3, 6, 8), "channels last"),
        ((5, 3, 6, 8), (5, 6, 8, 3), "channels first"),
        ((4, 6, 8), (1, 4, 6, 8), "as [4, 6, 8]"),
        ((2, 5, 4, 6, 8), (2, 5, 4, 6, 8), ""),
    ],
)
def test_layouts(theirs: tuple[int, ...], shape: tuple[int, ...], note: str) -> None:
    tensor = torch.arange(math.prod(theirs)).reshape(theirs)
    aligned = align(tensor, shape)
    assert aligned is not None
    assert (tuple(aligned[0].shape), aligned[1]) == (shape, note)
    assert sorted(aligned[0].flatten().tolist()) == sorted(tensor.flatten().tolist())
    assert align(tensor, (*shape, 2)) is None


def broken(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / kind
    if kind == "empty":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"\x93NUMPY" if kind.endswith(".npy") else b"nonsense")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "there is no"),
        ("empty", "contains no .npy"),
        ("a.safetensors", "not a safetensors file"),
        ("a.npy", "a single tensor: give the folder"),
    ],
)
def test_what_cannot_be_read(
    kind: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(TraceError, match=words):
        open_trace(path)
    assert main(["compare", str(path), str(path)]) == 2
    picture: Any = ["--picture", "none.png"]
    assert main(["diagnose", str(path), *picture]) == 2
    assert words in capsys.readouterr().err


def test_diffusers_is_asked_for_when_it_is_not_there(tmp_path: Path, tiny: Path) -> None:
    program = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from svd_engine.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    arguments = ["trace", str(image), "--model", str(tiny), "--implementation", "diffusers"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--out", str(tmp_path / "t.safetensors")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "pip install" in done.stderr) == (1, True)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2", "u1", ">i4", ">u2", "?"]
)
def test_arrays_of_any_byte_order_and_layout_are_read(
    dtype: str, order: Literal["C", "F"], tmp_path: Path
) -> None:
    values = np.arange(24).reshape(2, 3, 4) % 2
    np.save(tmp_path / "sigmas.npy", np.asarray(values, dtype, order=order))
    read = open_trace(tmp_path)["sigmas"]
    assert np.array_equal(read.numpy(), values)
