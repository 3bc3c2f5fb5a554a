"""Constants that bring one tensor nearest to another, by least squares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

BOTH = 12  # the simplicity of factor and summand; reversing is simpler, and looks alike on a ramp
NAMED = 1e-3  # how near a fitted constant has to be to one that has a name
NOTHING = 1e-6  # a relative size that counts as zero


@dataclass(frozen=True)
class Fit:
    """A factor and a summand, and the residual that they leave."""

    simplicity: int  # the smaller, the simpler
    residual: float  # RMS of what is left, over the RMS of what is fitted
    factor: float = 1.0
    summand: float = 0.0
    name: str = ""  # of the factor, if it is a known constant
    constant: bool = False  # the factor takes everything away

    def apply(self, b: Array) -> Array:
        """Apply the fit to a tensor."""
        return b * np.float32(self.factor) + np.float32(self.summand)

    def words(self, text: str) -> str:
        """Describe the fit of a tensor that is called `text`."""
        if self.constant:
            return f"{self.summand + 0:.4g} everywhere"
        name = f" ({self.name})" if self.name else ""
        if self.factor == -1:
            text = f"minus {text}"
        elif self.factor != 1:
            text = f"{self.factor:#.4g} times {text}{name}"
        if self.summand == 0:
            return text
        return f"{text}, {'plus' if self.summand > 0 else 'less'} {abs(self.summand):.4g}"


def fits(a: Array, b: Array, constants: Mapping[str, float]) -> list[Fit]:
    """Fits of b to a, both of one shape: as it is, times a constant, plus a constant, both."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    count, of_x, of_y = max(x.size, 1), float(x.sum()), float(y.sum())
    xx, xy, yy = float(x @ x), float(x @ y), float(y @ y)
    varies = yy - of_y * of_y / count
    ratio = xy / yy if yy else 1.0
    slope = (xy - of_x * of_y / count) / varies if varies > 1e-12 * yy else 0.0

    def left(factor: float, summand: float) -> float:
        square = xx - 2 * factor * xy + factor * factor * yy + summand * summand * count
        square += 2 * summand * (factor * of_y - of_x)
        return (max(square, 0.0) / xx) ** 0.5 if xx else float("inf")

    pairs = [(1.0, 0.0), (ratio, 0.0), (1.0, (of_x - of_y) / count)]
    pairs.append((slope, (of_x - slope * of_y) / count))
    found = []
    for simplicity, (factor, summand) in zip((0, 1, 2, BOTH), pairs, strict=True):
        factor = -1.0 if abs(factor + 1) < NOTHING else factor
        empty = abs(factor) * yy**0.5 < NOTHING * xx**0.5
        name = "" if simplicity == 0 else _name_of(factor, constants)
        found.append(Fit(simplicity, left(factor, summand), factor, summand, name, empty))
    return found


def _name_of(factor: float, constants: Mapping[str, float]) -> str:
    near = (name for name, value in constants.items() if abs(factor - value) < NAMED * abs(value))
    return next(near, "")


def times_each(a: Array, b: Array, axis: int, shifted: bool) -> Array:
    """Fit b to a with a factor for each place of an axis, and with a summand if `shifted`."""
    over = tuple(n for n in range(a.ndim) if n != axis % a.ndim)
    x, y = a.astype(np.float64), b.astype(np.float64)
    at = _means((x, y), over) if shifted else (0.0, 0.0)
    x, y = x - at[0], y - at[1]
    squares = (y * y).sum(over, keepdims=True)
    factors = (x * y).sum(over, keepdims=True) / np.where(squares == 0, 1.0, squares)
    return np.asarray(factors * y + at[0])


def _means(tensors: Sequence[Array], over: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(tensor.mean(over, keepdims=True) for tensor in tensors)


def rms(x: Array) -> float:
    """The root of the mean square, in float64."""
    flat = x.ravel()
    parts = (flat[n : n + 2**22].astype(np.float64) for n in range(0, flat.size, 2**22))
    return float(np.sqrt(sum(float(part @ part) for part in parts) / max(flat.size, 1)))
