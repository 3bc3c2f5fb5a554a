"""The engine's stages beside diffusers', interleaved in one process on the same weights and inputs.

Rows come in order of importance and are printed and written as they are there, so that a run whose
budget ends early has the ones that matter.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svd_engine.bench.measure import Call, Timer, costliest, count_launches, interleave
from svd_engine.bench.measure import machine_rates as measure_rates
from svd_engine.bench.networks import PRESETS, Preset, build_diffusers, build_engine
from svd_engine.bench.tiers import shallow_step, tier_clips
from svd_engine.engine import Engine
from svd_engine.exact import decode_slices


@dataclass(frozen=True)
class Row:
    """One implementation of one stage."""

    stage: str
    implementation: str
    variant: str
    dtype: str
    seconds: float
    first_seconds: float  # of the first call, which compiles and allocates
    ratio: float | None  # diffusers' eager time over this one
    launches: int | None
    peak_bytes: int | None
    distance: float | None  # largest, to float32, over its largest value


class Bench:
    """Measures, prints and writes."""

    def __init__(
        self, preset: str, device: str, dtype: str, against: bool, budget: float, out: Path | None
    ) -> None:
        self._preset: Preset = PRESETS[preset]
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)
        self._out, self._until = out, time.monotonic() + budget
        self._against = against
        name = torch.cuda.get_device_name(self._device) if device.startswith("cuda") else "cpu"
        self._told: dict[str, Any] = {"device": name, "torch": torch.__version__, "preset": preset}
        self._rows: list[Row] = []

    def run(self, profile: bool) -> None:
        """All of it, as far as the budget goes."""
        print(
            f"{self._told['device']}, torch {torch.__version__}, {self._dtype}".replace(
                "torch.", ""
            )
        )
        tflops, gbps = measure_rates(self._device, self._dtype)
        self._told |= {"matrix_tflops": round(tflops, 1), "copy_gbps": round(gbps, 1)}
        print(f"matrix product {tflops:.1f} TFLOP/s, copy {gbps:.0f} GB/s")
        engine = build_engine(self._preset, self._device, self._dtype)
        theirs = build_diffusers(engine) if self._against else None
        self._step(engine, theirs)
        self._decode(engine, theirs)
        self._clip(engine, theirs)
        if profile:
            self._profile(engine)
        if theirs is not None:
            self._compiled(engine, theirs)

    # Stages

    def _step(self, engine: Engine, theirs: Any) -> None:
        inputs = self._step_inputs(engine)
        calls: dict[tuple[str, str], Call] = {("engine", "eager"): lambda: engine.unet(*inputs)}
        calls["engine", "reusing features"] = shallow_step(engine.unet, inputs)
        if theirs is not None:
            calls["diffusers", "eager"] = lambda: theirs.unet(*inputs, return_dict=False)[0]
        exact = self._in_float32(engine.unet, inputs) if self._half else None
        self._measure("unet_step", calls, 5, exact)

    def _decode(self, engine: Engine, theirs: Any) -> None:
        p, vae = self._preset, engine.vae
        shape = (p.frames, vae.config.latent_channels, p.height // 8, p.width // 8)
        latents = torch.randn(shape, device=self._device, dtype=self._dtype)
        calls: dict[tuple[str, str], Call] = {
            ("engine", "frame by frame"): lambda: decode_slices(vae, latents),
            ("engine", "5 slices"): lambda: decode_slices(vae, latents, 5),
            ("engine", "whole"): lambda: vae.decode(latents),
        }
        if theirs is not None:
            calls["diffusers", "eager"] = lambda: torch.cat(
                [theirs.vae.decode(z, num_frames=len(z)).sample for z in latents.split(8)]
            )
        self._measure("decode", calls, 2)

    def _clip(self, engine: Engine, theirs: Any) -> None:
        calls = {("engine", "eager"): self._our_clip(engine)}
        if theirs is not None:
            calls["diffusers", "eager"] = self._their_clip(theirs)
        self._measure("clip", calls, 0)
        tiers = tier_clips(engine, self._picture(), self._preset.params)
        if tiers:
            self._measure("clip", tiers, 0)

    def _compiled(self, engine: Engine, theirs: Any) -> None:
        """Diffusers as its own documentation makes it fast."""
        inputs = self._step_inputs(engine)
        compiled: Any = torch.compile(theirs.unet)
        step = {
            ("engine", "eager"): lambda: engine.unet(*inputs),
            ("diffusers", "compiled"): lambda: compiled(*inputs, return_dict=False)[0],
        }
        self._measure("unet_step", step, 3, keep={"compiled"})
        if self._left() > 60:
            theirs.unet = compiled
            self._measure("clip", {("diffusers", "compiled"): self._their_clip(theirs)}, 0)

    def _profile(self, engine: Engine) -> None:
        inputs = self._step_inputs(engine)
        for name, share, count in costliest(lambda: engine.unet(*inputs), self._device):
            print(f"  {share:6.1%} {count:5d} x {name[:80]}")

    # Inputs

    @property
    def _half(self) -> bool:
        return self._dtype != torch.float32

    def _step_inputs(self, engine: Engine) -> tuple[Tensor, ...]:
        p, config = self._preset, engine.unet.config
        generator = torch.Generator("cpu").manual_seed(1)
        shape = (2, p.frames, config.in_channels, p.height // 8, p.width // 8)
        sample = torch.randn(shape, generator=generator)
        context = torch.randn(2, 1, config.per_block("cross_attention_dim")[0], generator=generator)
        ids = torch.tensor([[6.0, 127.0, 0.02]] * 2)
        sample, context, ids = (x.to(self._device, self._dtype) for x in (sample, context, ids))
        return sample, torch.tensor(1.0, device=self._device), context, ids

    @torch.inference_mode()
    def _in_float32(self, network: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """What a network gives with the same weights in float32, without TF32."""
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            return network.float()(*(x.float() for x in inputs))
        finally:
            torch.backends.cudnn.allow_tf32 = before
            network.to(self._dtype)

    def _picture(self) -> Image.Image:
        noise = np.random.default_rng(0).integers(0, 256, (18, 32, 3), dtype=np.uint8)
        size = (self._preset.width, self._preset.height)
        return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)

    def _our_clip(self, engine: Engine) -> Call:
        picture, params = self._picture(), self._preset.params
        return lambda: engine.render(picture, params)

    def _their_clip(self, theirs: Any) -> Call:
        p, picture = self._preset, self._picture()
        return lambda: theirs(
            picture,
            height=p.height,
            width=p.width,
            num_frames=p.frames,
            num_inference_steps=p.steps,
            decode_chunk_size=8,
            generator=torch.Generator("cpu").manual_seed(0),
        )

    # Rows

    def _left(self) -> float:
        return self._until - time.monotonic()

    def _measure(
        self,
        stage: str,
        calls: dict[tuple[str, str], Call],
        rounds: int,
        exact: Tensor | None = None,
        keep: set[str] | None = None,
    ) -> None:
        """Time calls in turn. keep: the variants that become rows; None is all."""
        if self._left() < 0:
            print(f"{stage}: left out, the budget is spent")
            return
        timers = {key: Timer(call, self._device) for key, call in calls.items()}
        interleave(list(timers.values()), rounds)
        eager = timers.get(("diffusers", "eager"))
        base = eager.seconds if eager else self._before(stage)
        for (implementation, variant), timer in timers.items():
            if keep is not None and variant not in keep:
                continue
            self._add(
                Row(
                    stage,
                    implementation,
                    variant,
                    str(self._dtype).removeprefix("torch."),
                    timer.seconds,
                    timer.first,
                    base / timer.seconds if base else None,
                    count_launches(timer.call, self._device) if stage != "clip" else None,
                    timer.peak_bytes,
                    None if exact is None else _distance(timer.call, exact),
                )
            )

    def _before(self, stage: str) -> float | None:
        for row in self._rows:
            if (row.stage, row.implementation, row.variant) == (stage, "diffusers", "eager"):
                return row.seconds
        return None

    def _add(self, row: Row) -> None:
        if not self._rows:
            print(f"{'':34}{'seconds':>9}{'ratio':>7}{'launches':>10}{'GB':>7}{'distance':>10}")
        self._rows.append(row)
        name = f"{row.stage} {row.implementation}, {row.variant}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.1f}"
        distance = "" if row.distance is None else f"{row.distance:.1e}"
        print(
            f"{name:34}{row.seconds:9.4f}{ratio:>7}{row.launches or '':>10}{peak:>7}{distance:>10}",
            flush=True,
        )
        if self._out is not None:
            told = self._told | {"rows": [asdict(row) for row in self._rows]}
            self._out.write_text(json.dumps(told, indent=1) + "\n")


@torch.inference_mode()
def _distance(call: Call, exact: Tensor) -> float:
    return float((call().float() - exact).abs().max() / exact.abs().max())
