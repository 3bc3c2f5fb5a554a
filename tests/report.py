"""`python -m tests.report`: measure the engine's distance from diffusers, its speed, and diagnoses.

Distances are the largest difference divided by the reference's largest value, in float32, over 25
steps. Times are of both in turn, in one run, compared by the median ratio.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

from svd_engine import Engine, RenderParams
from svd_engine.clip import embed
from svd_engine.conditioning import encode_latent
from svd_engine.config import UNetConfig, VAEConfig
from svd_engine.conformance.record import Recorder
from svd_engine.conformance.record import record as record_trace
from svd_engine.conformance.traces import Trace
from svd_engine.deviation_catalogue import CATALOGUE
from svd_engine.stages import decode
from svd_engine.unet import UNet
from svd_engine.vae import VAE
from tests.conftest import draw_picture
from tests.support.reference import (
    SPECS,
    load_pipeline,
    make_checkpoint,
    record,
    relative_difference,
)
from tests.support.traced import misnamed, random_pairs

TRACED = ("shallow", "three-levels")
HEADINGS = ["checkpoint", "embedding", "image latent", "noise prediction", "decode"]
HEADINGS += ["latents, end to end", "frames: most levels off", "frames: equal values"]


@torch.no_grad()
def distances(name: str, folder: Path) -> list[str]:
    """A checkpoint's row: each stage on the reference's inputs, and then the whole pipeline."""
    picture, spec = draw_picture(), SPECS[name]
    engine = Engine.from_pretrained(make_checkpoint(spec, folder / name))
    tape = record(
        load_pipeline(folder / name), picture, seed=11, num_inference_steps=25, **spec.render
    )
    params = RenderParams(seed=11, **spec.render)
    predictions = [
        relative_difference(
            engine.unet(
                given["sample"],
                given["timestep"],
                given["encoder_hidden_states"],
                given["added_time_ids"],
            ),
            theirs,
        )
        for given, theirs in zip(tape.unet_inputs, tape.unet_outputs, strict=True)
    ]
    clip = engine.render(picture, params)
    off = np.abs(clip.frames.astype(int) - tape.frames)
    figures = [
        relative_difference(embed(engine.image_encoder, tape.pixels)[:, 0], tape.embedding),
        relative_difference(encode_latent(engine.vae, tape.vae_input), tape.image_latent),
        max(predictions),
        relative_difference(
            decode(engine.vae, tape.latents[-1][0], params.decode_chunk_size), tape.decoded
        ),
        relative_difference(clip.latents, tape.latents[-1][0]),
    ]
    return [name, *(f"{x:.1e}" for x in figures), str(off.max()), f"{(off == 0).mean():.4%}"]


def ratio(ours: Callable[[], object], theirs: Callable[[], object], runs: int = 7) -> list[str]:
    """The seconds of both, and the median, minimum and maximum of their ratios pair by pair."""
    times: list[tuple[float, float]] = []
    for _ in range(runs + 1):
        pair = []
        for call in (ours, theirs):
            start = time.perf_counter()
            call()
            pair.append(time.perf_counter() - start)
        times.append((pair[0], pair[1]))
    times = times[1:]  # the first pair is to warm up
    ratios = sorted(a / b for a, b in times)
    seconds = [statistics.median(column) for column in zip(*times, strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return [f"{seconds[0]:.2f} s", f"{seconds[1]:.2f} s", spread]


@torch.no_grad()
def speeds() -> list[list[str]]:
    """Time a UNet step of 2 x 8 frames at 256 x 256 pixels and a decode of 8, at medium widths."""
    torch.manual_seed(0)
    wide: dict[str, Any] = {
        "block_out_channels": (64, 128, 256, 256),
        "num_attention_heads": (1, 2, 4, 4),
        "cross_attention_dim": 256,
    }
    their_unet = UNetSpatioTemporalConditionModel(**wide).eval()
    unet = UNet(UNetConfig.model_validate(wide)).eval()
    unet.load_state_dict(their_unet.state_dict())
    step = (
        torch.randn(2, 8, 8, 32, 32),
        torch.tensor(0.8),
        torch.randn(2, 1, 256),
        torch.tensor([[6.0, 127.0, 0.02]] * 2),
    )
    deep: dict[str, Any] = {
        "block_out_channels": (64, 128, 128, 128),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    their_vae = AutoencoderKLTemporalDecoder(**deep).eval()
    vae = VAE(VAEConfig.model_validate(deep)).eval()
    vae.load_state_dict(their_vae.state_dict())
    latents = torch.randn(8, 4, 32, 32)
    return [
        [
            "UNet step, 62 M parameters: engine / diffusers",
            *ratio(lambda: unet(*step), lambda: their_unet(*step)),
        ],
        [
            "VAE decode, 8 frames: engine / diffusers",
            *ratio(
                lambda: vae.decode(latents / 0.18215),
                lambda: their_vae.decode(latents / 0.18215, num_frames=8),
            ),
        ],
    ]


def conformance(folder: Path) -> list[list[str]]:
    """Count how many mistakes are diagnosed exactly, and measure the cost of a trace."""
    picture, named = draw_picture(640, 400), [["each mistake alone"], ["random pairs"]]
    for name in TRACED:
        engine = Engine.from_pretrained(folder / name)
        alone: list[tuple[str, ...]] = [(mistake,) for mistake in CATALOGUE]
        for row, made in zip(named, (alone, random_pairs()), strict=True):
            missed = misnamed(engine, name, picture, made)
            row.append(f"{len(made) - len(missed)} of {len(made)}")
    return named


def trace_cost(folder: Path) -> list[str]:
    """Compare a render of 25 steps that records its latents with one that does not."""
    picture, engine = draw_picture(), Engine.from_pretrained(folder / TRACED[0])
    params = RenderParams(**SPECS[TRACED[0]].render)

    def traced() -> None:
        recorder = Recorder(only=["step.*.latents"])
        record_trace(engine, picture, params, recorder)
        Trace(recorder.tensors).save(folder / "trace.safetensors")

    return [
        "a render of 25 steps, its latents traced / not traced",
        *ratio(traced, lambda: engine.render(picture, params)),
    ]


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        print(table(HEADINGS, [distances(name, Path(scratch)) for name in SPECS]))
        print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads, float32\n")
        print(table(["work", "one", "the other", "ratio"], [*speeds(), trace_cost(Path(scratch))]))
        print()
        print(table(["mistakes named, and nothing else", *TRACED], conformance(Path(scratch))))
