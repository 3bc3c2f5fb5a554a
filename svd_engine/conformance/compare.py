"""Compares two traces end to end: where they first depart from each other, and by how much.

Once they have departed, later stages have different inputs. `diagnose` judges each stage by itself.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from svd_engine.conformance.traces import Trace, align, split_key

# Relative to the largest value: before denoising, and from then on, as errors accumulate.
TOLERANCES = {
    torch.float32: (1e-5, 1e-4),
    torch.float16: (5e-3, 2e-2),
    torch.bfloat16: (3e-2, 1e-1),
}
EARLY = ("clip.", "image.", "time_ids", "guidance", "sigmas", "timesteps", "latents.init")


@dataclass(frozen=True)
class Row:
    """A tensor that both traces have. Differences are None if they cannot be computed."""

    key: str
    shape: tuple[int, ...]
    note: str  # the layout of the second one, or why they cannot be compared
    largest: float | None = None  # absolute difference
    rms: float | None = None
    relative: float | None = None  # the largest difference over the first one's largest value
    cosine: float | None = None
    tolerance: float = 0.0  # of `relative`
    departs: bool = True


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of computation, and the names that only one of the traces has."""

    rows: tuple[Row, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def first_departure(self) -> Row | None:
        """The first tensor whose difference exceeds its tolerance."""
        return next((row for row in self.rows if row.departs), None)

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        first = self.first_departure
        return {
            "alike": first is None,
            "first_departure": first.key if first else None,
            "tensors": [asdict(row) for row in self.rows],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }


def compare(first: Trace, second: Trace) -> Comparison:
    """Compare every tensor that both traces have."""
    return Comparison(
        tuple(compare_tensors(key, first[key], second[key]) for key in first if key in second),
        tuple(key for key in first if key not in second),
        tuple(key for key in second if key not in first),
    )


def tier_warnings(first: Trace, second: Trace) -> Iterator[str]:
    """A warning if the headers name different tiers, whose traces are not meant to be alike."""
    names = ("tier", "reuse_interval")
    a, b = ([trace.about.get("params", {}).get(n) for n in names] for trace in (first, second))
    if None not in (*a, *b) and a != b:
        described = (f"{tier}, reuse interval {interval}" for tier, interval in (a, b))
        yield "the tiers differ: {}; and {}".format(*described)


def compare_tensors(key: str, a: Tensor, b: Tensor) -> Row:
    """Compare a tensor of both traces. `b` may be in any known layout."""
    shape = tuple(a.shape)
    aligned = align(b, shape)
    if aligned is None:
        return Row(key, shape, f"the second is {list(b.shape)}: of another shape")
    b, note = aligned
    tolerance = _tolerance(key, a.dtype, b.dtype)
    x, y = a.double().flatten(), b.double().flatten()
    if not (x.isfinite().all() and y.isfinite().all()):
        return Row(key, shape, f"{note} holds NaN or Inf".strip(), tolerance=tolerance)
    difference = (x - y).abs()
    largest, scale = difference.max().item(), x.abs().max().item()
    relative = largest / scale if scale else (0.0 if largest == 0 else float("inf"))
    norms = (x.norm() * y.norm()).item()
    return Row(
        key,
        shape,
        note,
        largest,
        difference.square().mean().sqrt().item(),
        relative,
        (x @ y).item() / norms if norms else float(largest == 0),
        tolerance,
        relative > tolerance,
    )


def _tolerance(key: str, *dtypes: torch.dtype) -> float:
    if key == "frames.uint8":
        return 1 / 255  # one level
    early, late = max(TOLERANCES.get(dtype, TOLERANCES[torch.float32]) for dtype in dtypes)
    return early if split_key(key)[0].startswith(EARLY) else late


def table(comparison: Comparison) -> Iterator[str]:
    """The lines of a table in the order of computation, in which departures are marked."""
    head = ("tensor", "shape", "largest", "rms", "relative", "cosine", "")
    lines: list[tuple[str, ...]] = [head]
    for row in comparison.rows:
        numbers = (row.largest, row.rms, row.relative)
        texts = ["-" if number is None else f"{number:.1e}" for number in numbers]
        cosine = "-" if row.cosine is None else f"{row.cosine:.6f}"
        mark = "DEPARTS" if row.departs else ""
        shape = "x".join(map(str, row.shape))
        lines.append((row.key, shape, *texts, cosine, f"{mark} {row.note}".strip()))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        yield "  ".join(
            text.ljust(width) for text, width in zip(line, widths, strict=True)
        ).rstrip()
    for names, which in ((comparison.only_first, "first"), (comparison.only_second, "second")):
        if names:
            yield f"only the {which} has {', '.join(names)}"
    first = comparison.first_departure
    if first is None:
        yield f"alike: {len(comparison.rows)} tensors within their tolerances"
    else:
        beyond = "" if first.relative is None else f": {first.relative:.1e} > {first.tolerance:.0e}"
        yield f"the first to depart is {first.key}{beyond}"
