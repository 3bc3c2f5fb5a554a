"""Shows a comparison as one HTML file: its table, errors over the steps, and difference maps."""

import base64
import math
from collections.abc import Iterator
from html import escape
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svd_engine.conformance.compare import Comparison, Row
from svd_engine.conformance.traces import OF_STEP, Trace, align, split_key

SHOWN = 3  # frames of each tensor: the first, the middle one, the last
SIDE = 256  # the least pixels of a map's longer side
LINES = {"model_output": "#c2410c", "latents": "#1d4ed8"}  # drawn over the steps
WIDTH, HEIGHT, MARGIN = 720, 240, 48
# The colours of a map: black, violet, red, yellow, white.
SHADES = np.array(
    [[0, 0, 0], [80, 10, 110], [205, 45, 60], [250, 190, 40], [255, 255, 255]], np.float32
)
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid #8884; }
.departs { color: #c2410c; font-weight: 600; }
.scroll { overflow-x: auto; }
figure { margin: 1.5rem 0; }
figure div { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .5rem; }
img { width: 100%; image-rendering: pixelated; }
svg { max-width: 100%; }
svg text { fill: currentColor; font-size: 12px; }
"""


def comparison_page(
    comparison: Comparison, first: Trace, second: Trace, names: tuple[str, str]
) -> str:
    """The text of the HTML file."""
    departure = comparison.first_departure
    said = f"The first to depart is {departure.key}." if departure else "They are alike."
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'><title>Two traces</title>",
        f"<style>{STYLE}</style><h1>{escape(names[0])} and {escape(names[1])}</h1>",
        f"<p>{escape(said)}</p>",
        _table(comparison),
        _steps(comparison),
        *_maps(comparison, first, second, names),
    ]
    return "\n".join(parts) + "\n"


def _table(comparison: Comparison) -> str:
    rows = "".join(_row(row) for row in comparison.rows)
    head = "".join(
        f"<th scope=col>{name}</th>"
        for name in ("tensor", "shape", "largest", "rms", "relative", "cosine", "layout")
    )
    lost = "".join(
        f"<p>Only {escape(which)} has {escape(', '.join(keys))}.</p>"
        for which, keys in (
            ("the first", comparison.only_first),
            ("the second", comparison.only_second),
        )
        if keys
    )
    return f"<div class=scroll><table><tr>{head}</tr>{rows}</table></div>{lost}"


def _row(row: Row) -> str:
    numbers = [row.largest, row.rms, row.relative]
    cells = [row.key, " x ".join(map(str, row.shape))]
    cells += ["" if number is None else f"{number:.2e}" for number in numbers]
    cells += ["" if row.cosine is None else f"{row.cosine:.6f}", row.note]
    kind = " class=departs" if row.departs else ""
    return f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _steps(comparison: Comparison) -> str:
    """A plot of relative differences over the steps, on a logarithmic scale."""
    lines = {what: _points(comparison, what) for what in LINES if what in OF_STEP}
    lines = {what: points for what, points in lines.items() if len(points) > 1}
    if not lines:
        return ""
    every = [point for points in lines.values() for point in points]
    low, high = math.floor(min(y for _, y in every)), math.ceil(max(y for _, y in every))
    high = max(high, low + 1)
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    drawn = [_grid(low, high)]
    for number, (what, points) in enumerate(lines.items()):
        path = " ".join(
            f"{MARGIN + (x - first) / (last - first) * (WIDTH - 2 * MARGIN):.1f},"
            f"{_height(y, low, high):.1f}"
            for x, y in points
        )
        line = f"fill=none stroke='{LINES[what]}' stroke-width=2"
        drawn.append(f"<polyline points='{path}' {line} />")
        where = f"x={WIDTH - MARGIN - 110} y={16 + 16 * number}"
        drawn.append(f"<text {where} style='fill:{LINES[what]}'>{what}</text>")
    box = f"viewBox='0 0 {WIDTH} {HEIGHT}' width={WIDTH} role=img"
    label = f"aria-label='relative difference, steps {first} to {last}'"
    return (
        f"<h2>Over the steps</h2><p>Relative difference, steps {first} to {last}.</p>"
        f"<svg {box} {label}>{''.join(drawn)}</svg>"
    )


def _points(comparison: Comparison, what: str) -> list[tuple[int, float]]:
    """The steps, and the exponents of their relative differences."""
    points = []
    for row in comparison.rows:
        name, step = split_key(row.key)
        if name == f"step.{what}" and step is not None and row.relative is not None:
            points.append((step, math.log10(min(max(row.relative, 1e-9), 1e9))))
    return points


def _height(exponent: float, low: int, high: int) -> float:
    return HEIGHT - MARGIN / 2 - (exponent - low) / (high - low) * (HEIGHT - MARGIN)


def _grid(low: int, high: int) -> str:
    lines = []
    for exponent in range(low, high + 1):
        y = _height(exponent, low, high)
        lines.append(
            f"<line x1={MARGIN} x2={WIDTH - MARGIN} y1={y:.1f} y2={y:.1f} stroke='#8886' />"
            f"<text x=4 y={y + 4:.1f}>1e{exponent}</text>"
        )
    return "".join(lines)


def _maps(
    comparison: Comparison, first: Trace, second: Trace, names: tuple[str, str]
) -> Iterator[str]:
    """Pictures, latents and frames of both traces, each with a map of the difference."""
    steps = [row.key for row in comparison.rows if split_key(row.key)[0] == "step.latents"]
    wanted = ["image.augmented", "image.latent", "latents.init", *steps[-1:], "frames"]
    shown = [row for row in comparison.rows if row.key in wanted and row.relative is not None]
    if shown:
        yield "<h2>Where they differ</h2>"
    for row in shown:
        aligned = align(second[row.key], row.shape)
        assert aligned is not None
        a, b = (x.float().reshape(-1, *x.shape[-3:]) for x in (first[row.key], aligned[0]))
        largest = (a - b).abs().max().item()
        for frame in sorted({0, len(a) // 2, len(a) - 1}):
            pictures = (_picture(a[frame]), _picture(b[frame]), _heat(a[frame] - b[frame], largest))
            images = "".join(
                f"<img alt='{alt}' src='{_url(image)}'>"
                for alt, image in zip((*map(escape, names), "difference"), pictures, strict=True)
            )
            text = f"{row.key}, frame {frame}: {', '.join(names)}, their difference"
            yield (
                f"<figure><figcaption>{escape(text)} (white is {largest:.1e})</figcaption>"
                f"<div>{images}</div></figure>"
            )


def _picture(x: Tensor) -> Image.Image:
    """Draw (C, H, W) in grey or in colours, from its least value to its greatest."""
    x = x[:3] if len(x) >= 3 else x[:1].expand(3, -1, -1)
    span = (x.max() - x.min()).clamp_min(1e-12)
    levels = ((x - x.min()) / span * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def _heat(difference: Tensor, largest: float) -> Image.Image:
    """Draw the largest difference among the channels of each pixel of (C, H, W)."""
    heat = difference.abs().amax(dim=0).numpy() / (largest or 1.0)
    at = heat.clip(0, 1) * (len(SHADES) - 1)
    low = np.floor(at).astype(int).clip(0, len(SHADES) - 2)
    part = (at - low)[..., None]
    colours = SHADES[low] * (1 - part) + SHADES[low + 1] * part
    return Image.fromarray(colours.round().astype(np.uint8))


def _url(image: Image.Image) -> str:
    scale = max(1, SIDE // max(image.size))
    width, height = image.size
    image = image.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
