"""`nano`'s training: it runs, resumes after a stop, and refuses settings that do not fit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine import Engine, RenderParams
from svd_engine.picture_pixels import clip_pixels, vae_pixels
from tests.nano import TRAINING, held_out, training_module

IN_TURN = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
folder, scripts, sys.argv = sys.argv[1], sys.argv[2].split(), sys.argv[2:]
for script in scripts:
    runpy.run_path(f"{folder}/{script}.py", run_name="__main__")
"""


def options(out: Path, recipe: str = "trial") -> list[str]:
    return ["--recipe", recipe, "--out", str(out)]


def refused(script: str, out: Path, monkeypatch: pytest.MonkeyPatch, recipe: str = "trial") -> str:
    """Why a script ends at once."""
    monkeypatch.setattr(sys, "argv", [script, *options(out, recipe)])
    with pytest.raises(SystemExit) as caught:
        training_module(script).main()
    assert isinstance(caught.value.code, str)  # the shell is told 1
    return caught.value.code


@pytest.fixture
def training() -> Any:
    """Its loop and its UNet's script."""
    return training_module("loop"), training_module("train_unet")


def test_from_pictures_to_a_checkpoint_that_renders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = "draw_pictures train_code train_vae train_unet export"
    command = [sys.executable, "-c", IN_TURN, str(TRAINING), scripts, *options(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "unet: step 3 of 3" in done.stdout
    clip = Engine.from_pretrained(tmp_path / "checkpoint").render(
        held_out()["coffee"], RenderParams(num_inference_steps=1, num_frames=2)
    )
    assert clip.frames.shape == (2, 128, 128, 3)
    assert "was begun with another recipe" in refused("train_unet", tmp_path, monkeypatch, "cpu")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train_code", "pictures.pt: no such file; run draw_pictures.py first"),
        ("train_vae", "step 0 of 4; run train_code.py first"),
    ],
)
def test_nothing_is_built_on_what_is_half_learned(
    script: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in refused(script, tmp_path, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_that_is_stopped_goes_on(
    dtype: torch.dtype, training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, _ = training
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(loop, "LOG_EVERY", 2)

    def trained(folder: Path, last: int) -> Tensor:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        layer = nn.Linear(3, 1)

        def draw(step: int) -> dict[str, Tensor]:
            if step > last:
                raise InterruptedError
            return {"x": torch.randn(8, 3, generator=loop.generator(step)).to(dtype)}

        def loss(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": (layer(batch["x"]) - batch["x"].sum(1, keepdim=True)).pow(2).mean()}

        schedule = loop.Schedule(steps=9, learning_rate=0.1, warm_up=2)
        loop.train("line", folder, nn.ModuleDict({"layer": layer}), schedule, draw, loss, dtype)
        return layer.weight.detach()

    with pytest.raises(InterruptedError):
        trained(tmp_path / "stopped", 4)
    assert loop.load_state(tmp_path / "stopped/line.pt")["step"] == 4
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
    picture = held_out()["coffee"].resize((128, 128))
    mean, deviation = (tuple(train_unet.PREPROCESSOR[key]) for key in ("image_mean", "image_std"))
    shown = train_unet.clip_input(vae_pixels(picture, *picture.size))
    torch.testing.assert_close(shown, clip_pixels(picture, mean, deviation))


def test_weights_of_half_precision_learn_in_whole(training: Any, tmp_path: Path) -> None:
    loop, _ = training
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1)

    def loss(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        assert layer.weight.dtype is torch.bfloat16
        return {"loss": layer(batch["x"]).sum().float()}

    loop.train(
        "line",
        tmp_path,
        nn.ModuleDict({"layer": layer}),
        loop.Schedule(steps=10, learning_rate=1e-3, warm_up=1),
        lambda _step: {"x": torch.ones(1, 1, dtype=torch.bfloat16)},
        loss,
        torch.bfloat16,
    )
    kept = loop.load_state(tmp_path / "line.pt")["networks"]["layer.weight"]
    # One step alone would be rounded away: bfloat16's next number below 1 is 0.996.
    assert kept.dtype is torch.float32
    assert kept.item() == pytest.approx(1 - 5.5e-3, rel=1e-4)
    assert layer.weight.item() == kept.bfloat16().item() < 1


@pytest.mark.parametrize("size", [(32, 64), (64, 32)])
@pytest.mark.parametrize("move", ["pan", "zoom", "roll"])
def test_a_film_moves_as_it_says(move: str, size: tuple[int, int]) -> None:
    camera = training_module("camera")
    still = {"pan": torch.zeros(1, 2), "zoom": torch.zeros(1), "roll": torch.zeros(1)}
    cameras = camera.Cameras(**still | {move: torch.full_like(still[move], 0.1)})
    times, depth = torch.arange(3.0)[None], torch.tensor([1.5])
    view = camera.View(scale=torch.tensor([0.5]), centre=torch.tensor([[0.1, -0.2]]))
    # A picture whose colours say where they are: they differ as far as the camera has moved.
    side = 128
    ramp = torch.arange(side) / side
    picture = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])[None]
    films = camera.film(picture, cameras, times, size, view, depth)[0]
    seen = F.avg_pool2d(films - films[:1], camera.CELL) * max(size) / 0.5
    expected = camera.displacement(cameras, times, size, depth)[0]
    assert expected[2].abs().max() > 1
    torch.testing.assert_close(seen, expected, atol=1e-3, rtol=1e-3)


def test_films_are_as_fast_as_they_say() -> None:
    camera, album = training_module("camera"), training_module("pictures").draw_album(2, 0)
    times, rng = torch.arange(3.0).expand(64, 3), torch.Generator().manual_seed(0)
    films = camera.draw_films(album, times, (32, 64), rng)
    assert films.frames.shape == (64, 3, 3, 32, 64)
    assert films.frames.abs().max() <= 1
    assert (films.displacement[:, 0] == 0).all()
    moved = films.displacement[:, 1].square().sum(1).mean((1, 2)).sqrt()
    asked = camera.speed(films.motion_bucket_id, films.fps)
    assert 0.8 < moved.mean() / asked.mean() < 1.2


def test_a_frame_alone_is_told_of_its_own_picture(training: Any) -> None:
    loop, train_unet = training
    album, films, alone = training_module("pictures").draw_album(8, 0), 4, 2
    code = train_unet.LinearCode().begin(album[:, :, :64, :64] / 127.5 - 1, loop.generator(0))
    recipe = train_unet.UnetRecipe(1e-3, (train_unet.Phase(1, films, ((64, 64),), alone),))
    batch = train_unet.Examples(recipe, code.requires_grad_(False), album).draw(0)
    assert batch["latents"].shape[:2] == (films * alone, 1)
    firsts = batch["image_latent"][::alone]
    nearest = [
        (firsts - latents).square().mean((1, 2, 3)).argmin().item() for latents in batch["latents"]
    ]
    assert nearest == [n // alone for n in range(films * alone)]
