"""The arguments of `farm.submit`: keywords by name, and pictures in many forms."""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import farm
from farm.client.picture_argument import picture_bytes
from farm.errors import RequestError
from farm.model.job import Submission
from farm.model.parameters import JOB, MODEL, NAMES, check_parameters, submission_of
from svd_engine.params import RenderParams
from svd_engine.picture_files import open_picture
from svd_engine.reader import ALIASES
from tests.conftest import draw_picture


def test_public_names() -> None:
    assert sorted(farm.__all__) == list(farm.__all__)
    assert {"submit", "submit_many", "as_completed", "connect", "Job"} <= set(farm.__all__)
    for name in farm.__all__:
        assert getattr(farm, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'submitt'"):
        farm.submitt  # noqa: B018


def test_importing_the_names_loads_neither_ray_nor_torch_nor_httpx() -> None:
    heavy = {"ray", "torch", "transformers", "httpx", "httpx2", "boto3", "fastapi"}
    code = f"import sys, farm; farm.submit, farm.Job; print(*(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_every_field_is_a_keyword() -> None:
    assert set(NAMES) == {*RenderParams.model_fields, *ALIASES, "model", "variant", "dtype", *JOB}
    assert set(JOB) < set(Submission.model_fields)


def test_the_docs_of_submit_name_every_parameter_that_is_none_of_a_clip() -> None:
    named = farm.Connection.submit.__doc__
    assert named is not None
    assert all(name in named for name in (*MODEL, *JOB))


def test_keywords_as_the_farm_reads_them() -> None:
    given: dict[str, Any] = {"seed": np.int64(2**62), "sigmas": np.array([3, 0.0]), "fps": "9"}
    given |= {"model": Path("a/b"), "dtype": "float16", "width": None, "priority": 90}
    checked = check_parameters(given)
    assert checked == {
        "seed": 2**62,
        "sigmas": (3.0, 0.0),
        "fps": 9,
        "model": "a/b",
        "dtype": "float16",
        "priority": 90,
    }
    json.dumps(checked)
    submission = submission_of(checked)
    assert submission.params == RenderParams(seed=2**62, sigmas=(3.0, 0.0), fps=9)
    assert (submission.model.name, submission.priority) == ("a/b", 90)
    assert submission_of({}).id != submission_of({}).id


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"motion_bucket": 3}, "'motion_bucket'. Did you mean 'motion_bucket_id'"),
        ({"step": 3}, r"Unknown parameter 'step'. Did you mean 'steps'\?"),
        ({"sed": 3}, r"Unknown parameter 'sed'. Did you mean 'seed'\?"),
        ({"frames": 3}, r"Unknown parameter 'frames'. Did you mean 'num_frames'\?"),
        ({"motion": 3}, r"Unknown parameter 'motion'. Did you mean 'motion_bucket_id'\?"),
        ({"xyzzy": 3}, "Unknown parameter 'xyzzy'. The parameters are .*seed"),
        ({"id": "mine"}, "Unknown parameter 'id'"),
        ({"steps": 3, "num_inference_steps": 4}, "num_inference_steps: 4, but .* is 3"),
        ({"fps": 0}, "fps: .*got 0"),
        ({"fps": "fast", "seed": -1}, "fps: .*'fast'; seed: .*-1"),
        ({"priority": 101}, "priority: .*101"),
        ({"model": 3}, "model: .*3"),
        ({"dtype": "int8"}, "dtype: .*int8"),
        ({"start_within_s": 0}, "start_within_s: .*0"),
    ],
)
def test_a_wrong_keyword_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_parameters(given)


def test_pictures_in_every_form(tmp_path: Path) -> None:
    image = draw_picture(40, 30)
    pixels = np.asarray(image)
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for given in (data, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert picture_bytes(given) == data
    for made in (image, pixels, pixels[::-1][::-1], image.convert("RGBA")):
        sent = Image.open(BytesIO(picture_bytes(made)))
        assert sent.format == "PNG"
        assert np.array_equal(np.asarray(sent), pixels)
    cmyk = image.convert("CMYK")  # PNG has no such mode
    opened = open_picture(picture_bytes(cmyk))
    assert np.array_equal(np.asarray(opened), np.asarray(open_picture(cmyk)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gone.png", "there is no picture at gone.png"),
        (".", "cannot read .*directory"),
        ("a\0b", "cannot read"),
        (np.zeros((4, 4, 3)), r"\(H, W, 3\) of uint8, got \(4, 4, 3\) of float64"),
        (np.zeros((4, 4), np.uint8), r"got \(4, 4\) of uint8"),
        (np.zeros((0, 4, 3), np.uint8), "the picture"),
        (Image.new("F", (4, 4)), "floating-point"),
        (None, "a numpy array .* got NoneType"),
        ([1, 2], "got list"),
    ],
)
def test_what_is_no_picture(given: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        picture_bytes(given)
