"""Times the engine's stages and diffusers' in turn, in one process on the same inputs and weights.

Rows are measured in the order of importance, and printed and written at once, so that a run whose
budget ends early has the most important ones: the engine's, then eager diffusers', then others.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svd_engine.bench.floor import operations_of
from svd_engine.bench.launches import count_step
from svd_engine.bench.measure import (
    Call,
    Timer,
    costliest,
    dispatched,
    interleave,
    launched,
    machine_rates,
)
from svd_engine.bench.networks import PRESETS, Preset, build_diffusers, build_engine
from svd_engine.bench.plot import check_plot, draw
from svd_engine.bench.rows import Row, Table
from svd_engine.bench.stages import Stage, stages_of, tiers_of
from svd_engine.checkpoint import lay_out
from svd_engine.engine import Engine
from svd_engine.optimize import optimize

COMPILE_S = 150.0  # seconds that compiling a UNet takes, which cannot be interrupted


class Bench:
    """One run: measures the stages, prints rows and writes files."""

    def __init__(
        self,
        preset: str,
        device: str,
        dtype: str,
        against: bool,
        budget: float,
        out: Path | None = None,
        plot: Path | None = None,
    ) -> None:
        """budget: seconds. out: a JSON file. plot: a picture file. Raises ValueError."""
        if plot is not None:
            check_plot(plot)
        self._preset: Preset = PRESETS[preset]
        self._device, self._dtype = torch.device(device), dtype
        self._against, self._plot = against, plot
        self._until = time.monotonic() + budget
        p, on_gpu = self._preset, self._device.type == "cuda"
        about: dict[str, Any] = {
            "device": torch.cuda.get_device_name(self._device) if on_gpu else _processor(),
            "torch": torch.__version__,
            "preset": preset,
            "clip": f"{p.frames} frames, {p.width} x {p.height}, {p.steps} steps",
        }
        self._table = Table(about, out, _say)
        self._floor: dict[str, float] = {}  # the lower bound of the seconds, by stage

    def run(self, profile: bool) -> None:
        """Measure all that fits the budget. Raises ValueError if diffusers cannot be loaded."""
        about, dtype = self._table.about, getattr(torch, self._dtype)
        _say(f"{about['device']}, torch {about['torch']}, {self._dtype}: {about['clip']}")
        tflops, gbps = machine_rates(self._device, dtype)
        about |= {"matrix_tflops": round(tflops, 3), "copy_gbps": round(gbps, 1)}
        _say(f"matrix product {tflops:.2f} TFLOP/s, copy {gbps:.1f} GB/s")
        engine = build_engine(self._preset, self._device, dtype)
        operations = operations_of(engine.unet.config, engine.vae.config, self._preset.params)
        self._floor = {stage: count / tflops / 1e12 for stage, count in operations.items()}
        stages = stages_of(engine, self._preset.params, self._device)
        # Measured before diffusers' weights are loaded, so that peak memory is the engine's alone.
        if self._device.type == "cuda" or not self._against:
            for stage in stages:
                self._measure(stage, _ours(stage))
        if self._against:
            self._beside(engine, stages)
        self._tiers(engine, stages[2])
        if profile:
            self._profile(engine, stages[0].ours["eager"])
        if self._against:
            self._others(engine, stages)
        if self._plot is not None and self._table.rows:
            draw(about, self._table.rows, self._plot)
            _say(str(self._plot))

    def _tiers(self, engine: Engine, clip: Stage) -> None:
        """Time the approximate tiers in turn with an exact clip."""
        tiers = tiers_of(engine, self._preset.params)
        calls = {("engine", variant): call for variant, call in tiers.items()}
        if calls:
            self._measure(clip, _ours(clip) | calls, set(tiers))

    def _beside(self, engine: Engine, stages: list[Stage]) -> None:
        """Time eager diffusers, and in turn with it the engine again."""
        theirs = build_diffusers(engine)
        for stage in stages:
            self._measure(stage, _ours(stage) | {("diffusers", "eager"): stage.theirs(theirs)})

    def _others(self, engine: Engine, stages: list[Stage]) -> None:
        """Measure diffusers with channels last, then both compiled."""
        if self._left() < self._expected("unet_step"):
            return _say("channels last and compiled: left out, the budget is spent")
        pipeline = build_diffusers(engine)
        for network in (pipeline.unet, pipeline.vae):
            lay_out(network)
        for stage in stages:
            self._variant(stage, "channels last", stage.theirs(pipeline), 0.0)
        self._compiled(engine, stages)
        return None

    def _compiled(self, engine: Engine, stages: list[Stage]) -> None:
        """Measure both compiled. The engine stays compiled afterwards."""
        if self._left() < COMPILE_S + self._expected("unet_step"):
            return _say("compiled: left out, it would not end within the budget")
        pipeline = build_diffusers(engine)
        pipeline.unet = torch.compile(pipeline.unet)
        optimize(engine.unet)
        optimize(engine.vae)
        for stage in (stages[0], stages[2]):
            _, ours = next(iter(stage.ours.items()))
            calls = {
                ("engine", "compiled"): ours,
                ("diffusers", "compiled"): stage.theirs(pipeline),
            }
            try:
                self._measure(stage, calls, more=COMPILE_S)
            except RuntimeError as error:  # raised by torch if there is no C++ compiler
                return _say(f"compiled: left out, {str(error).splitlines()[0]}")
        return None

    def _variant(self, stage: Stage, variant: str, call: Call, more: float) -> None:
        """Add a row of diffusers, timed in turn with the engine. more: seconds to compile."""
        default, ours = next(iter(stage.ours.items()))
        calls = {("engine", default): ours, ("diffusers", variant): call}
        self._measure(stage, calls, {variant}, more)

    def _measure(
        self,
        stage: Stage,
        calls: dict[tuple[str, str], Call],
        keep: set[str] | None = None,
        more: float = 0.0,
    ) -> None:
        """Time calls in turn. keep: the variants that become rows; None means all."""
        expected = self._expected(stage.name) * len(calls)
        if self._left() < more + expected:
            return _say(f"{stage.name} {' '.join(next(reversed(calls)))}: left out, no time left")
        timers = {key: Timer(call, self._device) for key, call in calls.items()}
        interleave(list(timers.values()), stage.rounds, self._until, expected or None)
        base = self._base(stage, timers)
        for key, timer in timers.items():
            if keep is None or key[1] in keep:
                self._table.add(self._row(stage, key, timer, base))
        return None

    def _base(self, stage: Stage, timers: dict[tuple[str, str], Timer]) -> float | None:
        """Eager diffusers' seconds. Earlier ones are scaled by the engine's times then and now."""
        if ("diffusers", "eager") in timers:
            return timers["diffusers", "eager"].seconds
        former = self._table.find(stage.name, "diffusers", "eager")
        default = ("engine", next(iter(stage.ours)))
        anchor = self._table.find(stage.name, *default)
        if former is None or anchor is None:
            return None
        drift = timers[default].seconds / anchor.seconds if default in timers else 1.0
        return former.seconds * drift

    def _row(self, stage: Stage, key: tuple[str, str], timer: Timer, base: float | None) -> Row:
        ratio = None if base is None else base / timer.seconds
        share = self._floor[stage.name] / timer.seconds
        before = self._table.find(stage.name, *key)
        if before is not None:  # measured alone before: keep its launches and memory
            return replace(before, seconds=timer.seconds, ratio=ratio, floor_share=share)
        launches, traffic = self._counts(stage, key, timer.call)
        return Row(
            stage.name,
            *key,
            self._dtype,
            timer.seconds,
            timer.first,
            ratio,
            share,
            launches,
            traffic,
            timer.peak_bytes if key[0] == "engine" else None,
            None if stage.exact is None else _distance(timer.call, stage.exact),
        )

    def _counts(
        self, stage: Stage, key: tuple[str, str], call: Call
    ) -> tuple[int | None, int | None]:
        """Launches and nominal bytes, if they can be counted. A clip is too long to count."""
        on_gpu = self._device.type == "cuda"
        if stage.name == "clip" or (key[1] == "compiled" and not on_gpu):
            return None, None
        if not on_gpu:
            return dispatched(call)
        hidden = key[0] == "engine" or key[1] == "compiled"  # in kernels that bypass the dispatcher
        return launched(call), None if hidden else dispatched(call)[1]

    def _profile(self, engine: Engine, call: Call) -> None:
        on_gpu = self._device.type == "cuda"
        launches = count_step(engine.unet.config, self._preset.params, on_gpu)
        copies = ", ".join(f"{place}: {n}" for place, n in launches.layout_copies.items())
        _say(f"a step dispatches {launches.total} launches; layout copies: {copies or 'none'}")
        for name, share, count in costliest(call, self._device):
            _say(f"  {share:6.1%} {count:5d} x {name[:80]}")

    def _left(self) -> float:
        return self._until - time.monotonic()

    def _expected(self, stage: str) -> float:
        """The expected seconds of a call: of the slowest so far, or of a clip's parts; else 0."""
        slowest = max((r.seconds for r in self._table.rows if r.stage == stage), default=0.0)
        if slowest or stage != "clip":
            return slowest
        return self._preset.steps * self._expected("unet_step") + self._expected("decode")


def _ours(stage: Stage) -> dict[tuple[str, str], Call]:
    return {("engine", variant): call for variant, call in stage.ours.items()}


def _processor() -> str:
    """The processor's name, if known, and the instructions and threads that torch uses."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = f"threads: {torch.get_num_threads()}"
    return ", ".join([*names[:1], torch.backends.cpu.get_cpu_capability(), threads])


def _say(line: str) -> None:
    print(line, flush=True)


@torch.inference_mode()
def _distance(call: Call, exact: Tensor) -> float:
    return float((call().float() - exact).abs().max() / exact.abs().max())
