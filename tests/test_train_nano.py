"""`nano`'s training: it runs, goes on where it was stopped, and refuses what does not fit."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svd_engine import Engine, RenderParams
from svd_engine.image import clip_pixels, vae_pixels
from tests.nano import held_out

FOLDER = Path(__file__).parent.parent / "examples/train_nano"


def run(script: str, out: Path, recipe: str = "trial") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / f"{script}.py"), "--recipe", recipe, "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@pytest.fixture
def training() -> Iterator[Any]:
    """Its loop and its UNet's script, imported as the scripts import them."""
    sys.path.insert(0, str(FOLDER))
    import loop
    import train_unet

    yield loop, train_unet
    sys.path.remove(str(FOLDER))


def test_from_pictures_to_a_checkpoint_that_renders(tmp_path: Path) -> None:
    for script in ("train_code", "train_vae", "train_unet", "calibrate", "export"):
        done = run(script, tmp_path)
        assert done.returncode == 0, done.stderr
    assert "unet: step 3 of 3" in done.stdout
    assert "calibration: step 2 of 2" in done.stdout
    clip = Engine.from_pretrained(tmp_path / "checkpoint").render(
        held_out()["coffee"], RenderParams(num_inference_steps=1, num_frames=2)
    )
    assert clip.frames.shape == (2, 128, 128, 3)
    other = run("train_unet", tmp_path, recipe="cpu")
    assert other.returncode == 1
    assert "was begun with another recipe" in other.stderr


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train_vae", "step 0 of 4; run train_code.py first"),
        ("calibrate", "step 0 of 3; run train_unet.py first"),
    ],
)
def test_nothing_is_built_on_what_is_half_learned(script: str, words: str, tmp_path: Path) -> None:
    done = run(script, tmp_path)
    assert done.returncode == 1
    assert words in done.stderr


def test_a_training_that_is_stopped_goes_on(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, _ = training
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)

    def trained(folder: Path, last: int) -> Tensor:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        layer = nn.Linear(3, 1)

        def draw(step: int) -> dict[str, Tensor]:
            if step > last:
                raise InterruptedError
            return {"x": torch.randn(8, 3, generator=loop.generator(step))}

        def loss(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": (layer(batch["x"]) - batch["x"].sum(1, keepdim=True)).pow(2).mean()}

        schedule = loop.Schedule(steps=9, learning_rate=0.1, warm_up=2)
        loop.train("line", folder, nn.ModuleDict({"layer": layer}), schedule, draw, loss)
        return layer.weight.detach()

    with pytest.raises(InterruptedError):
        trained(tmp_path / "stopped", 3)
    assert torch.equal(trained(tmp_path / "stopped", 9), trained(tmp_path / "whole", 9))


def test_a_loss_that_is_not_finite_ends_it(training: Any, tmp_path: Path) -> None:
    loop, _ = training
    layer = nn.Linear(1, 1)

    def loss(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": layer(batch["x"]).sum() / 0}

    with pytest.raises(FloatingPointError, match="the loss of step 0 is"):
        loop.train(
            "line",
            tmp_path,
            nn.ModuleDict({"layer": layer}),
            loop.Schedule(steps=2, learning_rate=0.1),
            lambda _step: {"x": torch.ones(1, 1)},
            loss,
        )
    assert not (tmp_path / "line.pt").exists()


def test_clip_sees_in_training_what_the_engine_shows_it(training: Any) -> None:
    _, train_unet = training
    picture = held_out()["coffee"]
    mean, deviation = (tuple(train_unet.PREPROCESSOR[key]) for key in ("image_mean", "image_std"))
    shown = train_unet.clip_input(vae_pixels(picture, *picture.size))
    torch.testing.assert_close(shown, clip_pixels(picture, mean, deviation))


def test_a_faster_camera_is_asked_for_within_what_was_taught(training: Any) -> None:
    from calibrate import GAIN, faster  # beside the scripts that the fixture makes known
    from camera import BUCKETS, FPS, speed

    fps, bucket = torch.cartesian_prod(torch.arange(1.0, 31), torch.arange(256.0)).unbind(1)
    meant_fps, meant_bucket = faster(fps, bucket)
    assert meant_fps.min() >= FPS[0] - 1e-3
    assert meant_fps.max() <= FPS[-1]
    assert meant_bucket.max() <= BUCKETS[-1] + 1e-3
    gain = speed(meant_bucket, meant_fps) / speed(bucket, fps)
    assert gain[speed(bucket, fps) < 0.3].nan_to_num(GAIN).min() > 0.95 * GAIN
    by_bucket = speed(meant_bucket, meant_fps).reshape(30, 256)
    assert (by_bucket.diff(dim=1) > 0).all()
    assert (by_bucket.diff(dim=0) <= 0).all()
