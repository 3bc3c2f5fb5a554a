"""Plots the results of the bench: seconds by stage and implementation."""

from importlib import import_module
from pathlib import Path
from typing import Any

from svd_engine.bench.rows import Row

TITLES = {"unet_step": "one UNet step", "decode": "decode of a clip", "clip": "a whole clip"}
COLOURS = {"engine": "#2a6f97", "diffusers": "#c9ada7"}


def check_plot(path: Path) -> None:
    """Raise ValueError if no plot can be drawn. Called before anything is measured."""
    try:
        canvas = import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
    except ImportError as error:
        raise ValueError("--plot needs matplotlib: pip install matplotlib") from error
    formats = sorted(canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in formats:
        raise ValueError(f"--plot: cannot draw {path.suffix!r}, only .{' .'.join(formats)}")


def draw(about: dict[str, Any], rows: list[Row], path: Path) -> None:
    """Draw bars of seconds, a panel for each stage, with the lower bound as a line."""
    from matplotlib.figure import Figure

    stages = [stage for stage in TITLES if any(row.stage == stage for row in rows)]
    of_stage = {stage: [row for row in rows if row.stage == stage] for stage in stages}
    heights = [len(of_stage[stage]) + 1.2 for stage in stages]
    figure = Figure(figsize=(10, 1.3 + 0.42 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(stages), squeeze=False, height_ratios=heights)[:, 0]
    for stage, axis in zip(stages, axes, strict=True):
        _panel(axis, TITLES[stage], of_stage[stage])
    axes[-1].set_xlabel(
        "seconds: shorter is faster.  1.50 x: diffusers, eager, takes 1.50 times as long"
    )
    figure.suptitle(
        f"Stable Video Diffusion, {about['clip']}, {rows[0].dtype}\n"
        f"{about['device']}, torch {about['torch']}, preset {about['preset']}",
        fontsize=11,
    )
    figure.savefig(path, dpi=150)


def _panel(axis: Any, title: str, rows: list[Row]) -> None:
    rows = sorted(rows, key=lambda row: row.seconds, reverse=True)
    names = [f"{row.implementation}, {row.variant}" for row in rows]
    seconds = [row.seconds for row in rows]
    bars = axis.barh(names, seconds, color=[COLOURS[row.implementation] for row in rows])
    axis.bar_label(bars, [_label(row) for row in rows], padding=4, fontsize=9)
    floor = rows[0].floor_share * rows[0].seconds
    axis.axvline(floor, color="#333333", linestyle=":", linewidth=1.2)
    axis.text(floor, len(rows) - 0.45, " its matrix products alone", fontsize=8, va="bottom")
    axis.set_xlim(0, 1.2 * max(seconds))
    axis.set_ylim(-0.6, len(rows))
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)


def _label(row: Row) -> str:
    if row.ratio is None or row.key[1:] == ("diffusers", "eager"):
        return f"{row.seconds:.3g} s"
    return f"{row.seconds:.3g} s, {row.ratio:.2f} x"
