"""Shows a comparison as one HTML file: its table, errors over the steps, and difference maps."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from svd_engine.conformance.compare import Comparison
from svd_engine.conformance.pictures import heat, picture, some_frames, url
from svd_engine.conformance.traces import OF_STEP, Trace, align, split_key
from svd_engine.templates import templates_in

TEMPLATES = Path(__file__).with_name("templates")
LINES = {"model_output": "#c2410c", "latents": "#1d4ed8"}  # of OF_STEP; drawn over the steps
WIDTH, HEIGHT, MARGIN = 720, 240, 48


@dataclass(frozen=True)
class _Line:
    """A tensor's differences over the steps. points: as SVG's polyline takes them."""

    what: str
    colour: str
    points: str


@dataclass(frozen=True)
class _Chart:
    """Relative differences over the steps, on a logarithmic scale."""

    first: int  # step
    last: int
    grid: Sequence[tuple[int, float]]  # exponents, and how far down each is
    lines: Sequence[_Line]
    width: int = WIDTH
    height: int = HEIGHT
    margin: int = MARGIN


@dataclass(frozen=True)
class _Map:
    """A frame of both traces and their difference, as data URLs of pictures."""

    key: str
    frame: int
    largest: float  # difference, which is drawn white
    pictures: tuple[str, str, str]


def comparison_page(
    comparison: Comparison, first: Trace, second: Trace, names: tuple[str, str]
) -> str:
    """The page as HTML."""
    environment = templates_in(TEMPLATES)
    return environment.get_template("comparison.html").render(
        comparison=comparison,
        names=names,
        chart=_chart(comparison),
        maps=list(_maps(comparison, first, second)),
    )


def _chart(comparison: Comparison) -> _Chart | None:
    """The chart of a comparison; None if fewer than two steps can be compared."""
    lines = {what: _points(comparison, what) for what in LINES if what in OF_STEP}
    lines = {what: points for what, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    every = [point for points in lines.values() for point in points]
    low, high = math.floor(min(y for _, y in every)), math.ceil(max(y for _, y in every))
    high = max(high, low + 1)
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    drawn = []
    for what, points in lines.items():
        path = " ".join(
            f"{MARGIN + (x - first) / (last - first) * (WIDTH - 2 * MARGIN):.1f},"
            f"{_height(y, low, high):.1f}"
            for x, y in points
        )
        drawn.append(_Line(what, LINES[what], path))
    grid = [(exponent, _height(exponent, low, high)) for exponent in range(low, high + 1)]
    return _Chart(first, last, grid, drawn)


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


def _maps(comparison: Comparison, first: Trace, second: Trace) -> Iterator[_Map]:
    """The maps of the picture, its latent, the first and last latents, and the frames.

    Of each tensor, the first frame, the middle one and the last.
    """
    steps = [row.key for row in comparison.rows if split_key(row.key)[0] == "step.latents"]
    wanted = ["image.augmented", "image.latent", "latents.init", *steps[-1:], "frames"]
    for row in comparison.rows:
        if row.key not in wanted or row.relative is None:
            continue
        aligned = align(second[row.key], row.shape)
        assert aligned is not None
        a, b = (x.float().reshape(-1, *x.shape[-3:]) for x in (first[row.key], aligned[0]))
        largest = (a - b).abs().max().item()
        for frame in some_frames(len(a)):
            difference = url(heat(a[frame] - b[frame], largest))
            pictures = url(picture(a[frame])), url(picture(b[frame])), difference
            yield _Map(row.key, frame, largest, pictures)
