"""Commands that a newcomer types: the engine's command line, and the examples."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from imageio_ffmpeg import count_frames_and_secs
from PIL import Image

from svd_engine import checkpoint, variants
from svd_engine.__main__ import main
from tests.support.programs import exit_status

ROOT = Path(__file__).parents[2]
SMALL = ["--steps", "2", "--width", "64", "--height", "48", "--num-frames", "3"]


def python(*arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
    )


def test_tiny_then_render(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "picture.png")
    assert main(["tiny", str(tmp_path / "model")]) == 0
    out = tmp_path / "clip.mp4"
    done = python(
        *("-m", "svd_engine", "render", tmp_path / "picture.png", "--out", out),
        *("--model", tmp_path / "model", "--fps", 5, *SMALL),
        cache=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert "step 1 of 2" in done.stderr  # the progress bar
    assert count_frames_and_secs(str(out))[0] == 3


def test_help_names_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    from svd_engine import RenderParams

    with pytest.raises(SystemExit) as caught:
        main(["render", "--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert all("--" + name.replace("_", "-") in output for name in RenderParams.model_fields)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.png"], "there is no picture at missing.png"),
        ([str(ROOT / "LICENSE")], "not a picture of a known format"),
        ([str(ROOT / "examples/pictures/cat.webp"), "--model", "none"], "No model 'none'"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", *arguments, "--out", "x.mp4"]) == 2
    errors = capsys.readouterr().err
    assert re.match(f"error: .*{words}", errors)
    assert len(errors.splitlines()) <= 2  # the error, and where to look


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.avi"], "--out: cannot write '.avi'"),
        (["--out", "x.mp4", "--fps", "0"], "--fps: .*greater than or equal to 1"),
        (["--out", "x.mp4", "--steps", "many"], "--num-inference-steps: .*'many'"),
        (["--out", "x.mp4", "--fit", "squash"], "--fit: Input should be 'stretch'"),
        ([], "--out"),
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(main, ["render", "picture.png", *arguments]) == 2
    errors = capsys.readouterr().err
    assert re.search(words, errors)
    assert len(errors.splitlines()) <= 2  # the error, and where to look


@pytest.fixture
def tiny_for_nano(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nano` is `tiny`, which takes a tenth of the time."""
    for module in (checkpoint, variants):
        monkeypatch.setattr(module, "NANO", tiny)


def test_the_example(tiny_for_nano: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "clip.mp4"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        sys, "argv", ["engine.py", str(ROOT / "examples/pictures/rocket.jpg"), str(out)]
    )
    runpy.run_path(str(ROOT / "examples/engine.py"), run_name="__main__")
    assert count_frames_and_secs(str(out))[0] == 8


@pytest.mark.slow
def test_the_example_in_a_process_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    script, picture = ROOT / "examples/engine.py", ROOT / "examples/pictures/rocket.jpg"
    done = python(script, picture, out, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert count_frames_and_secs(str(out))[0] == 14


def test_the_bar_of_a_render_says_every_stage(
    tiny_for_nano: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "clip.mp4")
    picture = str(ROOT / "examples/pictures/rocket.jpg")
    arguments = ["render", picture, "--out", out, "--num-inference-steps", "2"]
    assert main([*arguments, "--width", "64", "--height", "64", "--num-frames", "2"]) == 0
    printed = capsys.readouterr()
    assert "  0%" in printed.err
    assert "clip.mp4: encoding" in printed.err
    assert "100%" in printed.err
    assert "clip.mp4: done" in printed.err
    assert printed.out == f"{out}\n"
