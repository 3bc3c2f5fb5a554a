"""Networks optimized from outside: the same numbers, and nothing is compiled twice."""

import logging
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from farm.model.request import Model
from farm.workers.engines import Decoder, Renderer
from svd_engine import RenderParams, stages
from svd_engine.bench.networks import PRESETS, build_engine
from svd_engine.checkpoint import open_checkpoint
from svd_engine.conditioning import Conditioning, frame_shape
from svd_engine.config import ScheduleConfig
from svd_engine.layers import Constants
from svd_engine.optimize import optimize, warm_up
from svd_engine.tiny import SCHEDULER
from svd_engine.unet import UNet

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SCHEDULE = ScheduleConfig.model_validate(SCHEDULER)


def params(**given: object) -> RenderParams:
    small = {"width": 64, "height": 64, "num_frames": 3, "num_inference_steps": 2}
    return RenderParams.model_validate({**small, "max_guidance_scale": 3.0, **given})


def denoised(unet: UNet, asked: RenderParams, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    width = unet.config.per_block("cross_attention_dim")[0]
    width_px, height_px, frames = frame_shape(asked)
    of_latent = 4, height_px // 8, width_px // 8
    conditioning = Conditioning(
        torch.randn(1, 1, width), torch.randn(1, *of_latent), torch.tensor([[6.0, 127, 0.02]])
    )
    weights = next(unet.parameters())
    conditioning = Conditioning(*(value.to(weights.dtype) for value in vars(conditioning).values()))
    noise = torch.randn(1, frames, *of_latent)
    return list(stages.denoise(unet, SCHEDULE, conditioning, noise, asked))[-1].latents.cpu()


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def small_unet(device: torch.device, dtype: torch.dtype = torch.float32) -> UNet:
    unet = build_engine(PRESETS["tiny"], device, dtype).unet
    torch.manual_seed(3)
    for parameter in unet.parameters():  # so that no rounding is blown up on the way
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5 * parameter[0].numel() ** -0.5)
    return unet


def test_blocks_compile_whole_and_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the compiler's front end alone, which is what breaks graphs and compiles anew."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    unet = small_unet(CPU)
    right = denoised(unet, params())
    optimize(unet)
    with caplog.at_level(logging.INFO, logger="svd_engine"):
        warm_up(unet, params())
    assert "getting ready for 3 frames of 64x64" in caplog.text
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert apart(denoised(unet, params()), right) < 1e-5
        denoised(unet, params(num_inference_steps=3, max_guidance_scale=7.5), seed=4)
    assert caplog.text.count("getting ready") == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # Inductor's
def test_compiled_blocks_compute_the_same() -> None:
    torch._dynamo.reset()
    unet = small_unet(CPU)
    # At 64 x 64 the deepest level has a single pixel, whose norms amplify rounding: to 1e-4.
    asked = params(width=128, height=128)
    right = denoised(unet, asked)
    optimize(unet)
    assert apart(denoised(unet, asked), right) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_recorded_steps_have_the_same_bits(dtype: torch.dtype) -> None:
    unet = small_unet(CUDA, dtype)
    asked = [
        params(),
        params(num_frames=5),
        params(num_inference_steps=4),
        params(deviations=("norm_eps",)),
        params(num_inference_steps=4, reuse_interval=2),
        params(min_guidance_scale=1.0, max_guidance_scale=1.0),
        params(),
    ]
    right = [denoised(unet, each, seed) for seed, each in enumerate(asked)]
    optimize(unet)
    warm_up(unet, params())
    for seed, (each, latents) in enumerate(zip(asked, right, strict=True)):
        assert denoised(unet, each, seed).equal(latents)
    unet.cpu()
    unet.to(CUDA)  # elsewhere than they were
    assert denoised(unet, asked[0], 0).equal(right[0])


def test_constants_are_those_of_a_step_alone() -> None:
    unet = small_unet(CPU)
    seen: list[Constants] = []
    predict = unet.predict

    def listen(sample: Tensor, constants: Constants) -> Tensor:
        seen.append(constants)
        return predict(sample, constants)

    unet.predict = listen  # type: ignore[method-assign]
    denoised(unet, params())
    assert len(seen) == 2
    unguided = [module for module, value in seen[0].items() if not value.equal(seen[1][module])]
    assert unguided, "no layer is told how much noise there is"
    assert all(hasattr(module, "time_emb_proj") for module in unguided)


@pytest.mark.slow
def test_a_worker_compiles_before_its_first_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tiny: Path
) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    model, weights = Model(name=str(tiny)), open_checkpoint(tiny).digest
    asked = params()
    with caplog.at_level(logging.INFO, logger="svd_engine"):
        for engine in (Renderer(model, weights, CPU, True), Decoder(model, weights, CPU, True)):
            engine.warm_up(asked)
    assert "ready for 3 frames of 64x64" in caplog.text
    compiled = [module for module in engine.networks[1].modules() if module._compiled_call_impl]
    assert compiled, "no block of the decoder is compiled"
