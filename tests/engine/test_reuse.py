"""Feature reuse between steps: compared with diffusers, resumed, traced, and on the farm."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from farm.model.plan import Stage, plan
from farm.model.request import Model
from farm.workers.engines import Latents, Renderer
from svd_engine.__main__ import main
from svd_engine.checkpoint import open_checkpoint
from svd_engine.conformance.findings import Verdict
from svd_engine.conformance.traces import TraceError, open_trace
from svd_engine.deviations import recipe_of
from svd_engine.engine import Engine
from svd_engine.params import RenderParams
from svd_engine.stages import draw_noise
from svd_engine.tiers import whole_steps
from tests.engine.test_parity import assert_same_clip
from tests.model.test_plan import request
from tests.support.farm_jobs import picture_bytes
from tests.support.reference import SPECS, load_pipeline, record
from tests.support.traced import diagnosed, params_of, reference_trace, trace

NAME = "shallow"


@contextmanager
def reusing(unet: Any, interval: int) -> Iterator[None]:
    """Let diffusers' UNet, which computes every step, be given old features in its last layer."""
    layer, kept, step = unet.up_blocks[-1].resnets[-1], torch.empty(0), 0
    width = unet.up_blocks[-1].resnets[-2].spatial_res_block.out_channels

    def swap(_module: Any, args: Any) -> Any:
        nonlocal kept, step
        deep, skip = args[0][:, :width], args[0][:, width:]
        kept = deep if step % interval == 0 else kept
        step += 1
        return (torch.cat([kept, skip], dim=1), *args[1:])

    hook = layer.register_forward_pre_hook(swap)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("name", "interval", "tier"),
    [
        ("shallow", 2, "fast"),
        pytest.param("published-depth", 3, "reuse", marks=pytest.mark.slow),
        ("three-levels", 4, "reuse"),
    ],
)
def test_diffusers_with_old_features_in_its_last_layer_renders_the_same(
    name: str, interval: int, tier: str, checkpoints: dict[str, Path], picture: Image.Image
) -> None:
    asked = RenderParams(
        **SPECS[name].render, seed=3, num_inference_steps=5, tier=tier, reuse_interval=interval
    )
    engine, pipeline = Engine.from_pretrained(checkpoints[name]), load_pipeline(checkpoints[name])
    sigmas = engine_sigmas(engine, asked)
    with reusing(pipeline.unet, interval):
        tape = record(pipeline, picture, seed=3, sigmas=sigmas, **SPECS[name].render)
    assert_same_clip(engine, picture, asked, tape)


def engine_sigmas(engine: Engine, params: RenderParams) -> list[float]:
    return recipe_of(params).sigmas(engine.schedule, params.steps, params.sigmas).tolist()


def test_the_deep_layers_run_at_whole_steps_alone(engine: Engine, picture: Image.Image) -> None:
    params = params_of(NAME, engine, num_inference_steps=7, reuse_interval=3)
    ran, steps = [0, 0], list[int]()
    hooks = [
        engine.unet.conv_in.register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1)),
        engine.unet.mid_block.register_forward_hook(lambda *_: ran.__setitem__(1, ran[1] + 1)),
    ]
    engine.render(picture, params, on_step=lambda done, _: steps.append(done))
    for hook in hooks:
        hook.remove()
    assert (len(steps), ran) == (7, [7, 3])
    assert whole_steps(7, 3) == [0, 3, 6]


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_resumed_at_any_whole_step_it_is_the_same_and_nowhere_else(
    interval: int, engine: Engine, picture: Image.Image
) -> None:
    params = params_of(NAME, engine, num_inference_steps=7, reuse_interval=interval)
    noise = draw_noise(params, engine.unet.dtype)
    conditioning = engine.encode(picture, noise, params)
    steps = engine.denoise(conditioning, noise.latents, params)
    through = [noise.latents, *(step.latents for step in steps)]
    for start in range(params.steps + 1):
        again = engine.denoise(conditioning, through[start], params, start)
        if start % interval and start < params.steps:
            with pytest.raises(ValueError, match=f"whole step, a multiple of {interval}, got"):
                next(again)
            continue
        rest = [step.latents for step in again]
        assert len(rest) == params.steps - start
        assert all(map(torch.equal, rest, through[start + 1 :]))


def test_the_farm_takes_it_up_where_it_left_off(tiny: Path) -> None:
    """Segments on renderers that know nothing of each other, latents through bytes between them."""
    asked = request(num_inference_steps=7, reuse_interval=3, num_frames=2, seed=4)
    digest = open_checkpoint(str(tiny)).digest
    image = picture_bytes()
    through = Engine.from_pretrained(tiny).render(image, asked.params).latents
    for segment in (1, 4):
        given: Any = None
        for task in plan(asked, segment):
            if task.stage not in (Stage.ENCODE, Stage.DENOISE):
                break
            renderer = Renderer(Model(name=str(tiny)), digest, torch.device("cpu"))
            if task.stage is Stage.ENCODE:
                given = renderer.encode(asked, image)
                continue
            saved = ended(renderer.denoise(asked, given, task.span[1])).to_bytes("a")
            given = Latents.from_bytes(saved, "a", task.span[1])
        assert torch.equal(given.latents[0], through)


def ended(work: Any) -> Latents:
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Latents = end.value
            return found


def test_a_trace_of_a_tier_is_found_right_step_by_step(
    engine: Engine, picture: Image.Image
) -> None:
    """The last step reuses what the one before it has computed."""
    params = params_of(NAME, engine, num_inference_steps=4, tier="fast", reuse_interval=2)
    ours = trace(engine, picture, params)
    found = diagnosed(ours, engine, picture, params)
    assert (found.deviations, found.exit_status) == ((), 0)
    judged = {finding.key: finding.verdict for finding in found.findings}
    assert judged["step.003.model_output"] is Verdict.RIGHT
    exact = params.model_copy(update={"reuse_interval": 1})
    departs = {f.key: f.verdict for f in diagnosed(ours, engine, picture, exact).findings}
    assert departs["step.003.model_output"] is Verdict.UNEXPLAINED
    assert departs["step.000.model_output"] is Verdict.RIGHT


def test_a_mistake_is_named_in_a_step_that_reuses(engine: Engine, picture: Image.Image) -> None:
    params = params_of(NAME, engine, num_inference_steps=4, reuse_interval=2, deviations="norm_eps")
    theirs = trace(engine, picture, params)
    assert diagnosed(theirs, engine, picture, params).deviations == ("norm_eps",)


def test_diffusers_traces_the_fast_tier_and_no_reuse(
    engine: Engine, checkpoints: dict[str, Path], picture: Image.Image
) -> None:
    folder, kind = checkpoints[NAME], torch.float32
    params = params_of(NAME, engine, num_inference_steps=2, tier="fast")
    theirs = reference_trace(folder, picture, params, kind)
    assert torch.allclose(theirs["sigmas"], trace(engine, picture, params)["sigmas"])
    reused = params_of(NAME, engine, reuse_interval=2)
    with pytest.raises(TraceError, match="diffusers reuses no features"):
        reference_trace(folder, picture, reused, kind)


def test_a_trace_says_which_steps_were_whole_and_a_comparison_that_tiers_differ(
    tiny: Path, picture: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture.save(tmp_path / "a.png")
    small = ["--model", str(tiny), "--width", "32", "--height", "32", "--num-frames", "1"]
    files = []
    for name, tier in (("exact", []), ("reused", ["--reuse-interval", "3"])):
        files.append(str(tmp_path / f"{name}.safetensors"))
        options = [*small, "--steps", "4", "--out", files[-1], *tier]
        assert main(["trace", str(tmp_path / "a.png"), *options]) == 0
    whole = [open_trace(Path(file)).about["whole_steps"] for file in files]
    assert whole == [[0, 1, 2, 3], [0, 3]]
    capsys.readouterr()
    assert main(["compare", *files]) == 1
    output = capsys.readouterr().out
    assert "the tiers differ: exact, reuse interval 1; and reuse, reuse interval 3" in output
    assert "the first to depart is step.001.model_output" in output
    assert main(["compare", files[1], files[1]]) == 0
    assert "tiers differ" not in capsys.readouterr().out


def test_what_is_put_on_the_unet_from_outside_runs_in_every_tier(
    engine: Engine, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `optimize` does, which replaces methods of the UNet at hand."""
    ran: list[str] = []
    for name in ("predict", "deep", "shallow"):
        method = getattr(engine.unet, name)
        heard = lambda *args, name=name, method=method: ran.append(name) or method(*args)  # noqa: E731
        monkeypatch.setattr(engine.unet, name, heard)
    engine.render(picture, params_of(NAME, engine, num_inference_steps=2))
    assert ran == ["predict", "deep", "shallow"] * 2
    ran.clear()
    engine.render(picture, params_of(NAME, engine, num_inference_steps=4, reuse_interval=2))
    assert ran == ["deep", "shallow", "shallow"] * 2


def test_the_two_parts_are_the_whole(engine: Engine) -> None:
    unet = engine.unet
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 3, unet.config.in_channels, 8, 8, generator=generator)
    context: Tensor = torch.randn(2, 1, 32, generator=generator)
    given = (sample, torch.tensor(0.3), context, torch.tensor([[6.0, 127.0, 0.02]] * 2))
    with torch.no_grad():
        (constants,) = unet.constants(given[1].expand(1, 2), *given[2:], 3)
        x = unet.enter(sample)
        assert torch.equal(unet.shallow(x, unet.deep(x, constants), constants), unet(*given))
