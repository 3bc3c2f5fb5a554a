"""Describes a tensor that departs by its simplest relation to what is right.

Pure functions of tensors. `likenesses` are tried on a sample, each as it is and with constants
fitted; the simplest that explains the tensor about as well as the best is confirmed on the whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svd_engine.conformance.fits import Array, Fit, fits, rms
from svd_engine.conformance.likenesses import AXES, WHOLE, Likeness, likenesses, stretched

SIDE = 256  # pixels of the middle of a frame that likenesses are tried on
SAMPLE = 2**19  # values that likenesses are tried on, or those of one frame if they are more
PIXELS = 2**12  # of each frame and channel, where likenesses are tried on all frames
CLOSE = 0.01  # the largest residual of a relation
CLOSE_HALF = 0.05  # the same for a tensor in half precision
SHARE = 0.2  # of the departure: the most that a relation may leave of it
AS_GOOD = 3.0  # a simpler relation may leave this many times as much as the best
FLOAT32 = 2e-6  # residuals below it are rounding
IN_PLACE = 1e-4  # a part that departs by less than this, relatively, is right
SAMPLES = ("frames", "frame", "pixels", "whole")
SAME = 1e-5  # of sorted values: two draws of noise are farther apart
HALF = (torch.float16, torch.bfloat16)
LISTED = 4  # the most entries that are described one by one


@dataclass(frozen=True)
class Relation:
    """A relation to what is right, in words."""

    text: str
    residual: float  # RMS of what it leaves, over the RMS of the tensor

    def __str__(self) -> str:
        return f"{self.text} (residual {self.residual:.0e})"


def describe(
    theirs: Tensor,
    right: Tensor,
    others: Mapping[str, Tensor] | None = None,
    constants: Mapping[str, float] | None = None,
) -> Relation | None:
    """The simplest relation that explains a tensor; None if none does.

    theirs, right: of one shape. others: tensors that it may be instead, by their descriptions;
    those of another shape are left out. constants: numbers by name; a fitted factor that equals one
    of them is called by its name.
    """
    x, y = _array(theirs), _array(right)
    if x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    given = {name: _array(other) for name, other in (others or {}).items()}
    given = {
        name: other
        for name, other in given.items()
        if other.shape == x.shape and np.isfinite(other).all()
    }
    if constant := _constant(x):
        return constant
    if x.size < LISTED and (few := _listed(x, y, x.size - 1)):
        return few
    likes = (*likenesses(x, y), *_instead(given))
    relation = _search(x, y, likes, given, constants or {}, exactly=x.size < LISTED)
    relation = relation or _in_a_part(x, y) or _search(x, y, stretched(x)) or _listed(x, y, LISTED)
    return relation or _in_any_order(x, y)


def is_half(x: Tensor) -> bool:
    """Whether half precision holds all values of a tensor, whatever its type."""
    return any(bool((x.to(dtype).float() == x).all()) for dtype in HALF)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().float().numpy()


def _constant(x: Array) -> Relation | None:
    low, high = float(x.min()), float(x.max())
    return Relation(f"{high + 0.0:.4g} everywhere", 0.0) if low == high else None


def _search(
    x: Array,
    y: Array,
    likes: Iterable[Likeness],
    others: Mapping[str, Array] = MappingProxyType({}),
    constants: Mapping[str, float] = MappingProxyType({}),
    exactly: bool = False,
) -> Relation | None:
    """exactly: fit no constants, since some of them always explain a few values."""
    departure = rms(x - y) / (rms(x) or 1.0)
    limit = min(CLOSE_HALF if is_half(torch.from_numpy(x)) else CLOSE, SHARE * departure)
    found = list[tuple[int, float, Likeness, Fit]]()
    cuts = {sample: _cut(x.shape, sample) for sample in SAMPLES}
    for like in likes:
        cut = cuts[like.sample]
        pair = like.relate(x[cut], (others[like.other] if like.other else y)[cut])
        tried = fits(*pair, constants)
        for fit in tried[:1] if exactly or not like.fitted else tried:
            if fit.residual <= limit and fit.simplicity < pair[0].size:
                found.append((like.simplicity + fit.simplicity, fit.residual, like, fit))
    best = min((residual for _, residual, _, _ in found), default=np.inf)
    enough = min(limit, max(AS_GOOD * best, FLOAT32))
    for _, residual, like, fit in sorted(found, key=itemgetter(0)):
        if residual <= enough:
            a, b = like.relate(x, others[like.other] if like.other else y)
            left = rms(a - fit.apply(b)) / (rms(a) or 1.0)
            if left <= limit:
                return Relation(fit.words(like.text), left)
    return None


def _instead(others: Mapping[str, Array]) -> Iterator[Likeness]:
    for name in others:
        yield Likeness(6, name, lambda a, b: (a, b), other=name)


def _cut(shape: Sequence[int], sample: str) -> Any:
    """The index of the part of a tensor to try likenesses on.

    It is the middle of the first frames, which flips and rotations leave in place; the first frame;
    some pixels of all frames; or the whole tensor.
    """
    if sample == "whole" or len(shape) < 4:
        return (slice(None),)
    pixels = shape[-1] * shape[-2]
    if sample == "pixels":
        step = max(1, round((pixels / PIXELS) ** 0.5))
        return (..., slice(None, None, step), slice(None, None, step))
    frame = (slice(None),) * (len(shape) - 4)
    if sample == "frame":
        return (*frame, slice(1))
    sides = [min(side, SIDE + side % 2) for side in shape[-2:]]
    middle = [
        slice((side - kept) // 2, (side + kept) // 2)
        for side, kept in zip(shape[-2:], sides, strict=True)
    ]
    frames = max(1, SAMPLE // (prod(shape[:-4]) * shape[-3] * prod(sides)))
    return (*frame, slice(frames), slice(None), *middle)


def _in_a_part(x: Array, y: Array) -> Relation | None:
    """Which frames, channels or halves depart, and how, if all others are right."""
    if x.ndim < 4:
        return None
    departs, size = np.square(x - y), np.square(y)
    for axis, what in reversed(AXES.items()):
        if -axis > x.ndim or x.shape[axis] < 2:
            continue
        others = tuple(n for n in range(x.ndim) if n != axis % x.ndim)
        off = departs.sum(others, dtype=np.float64) > IN_PLACE**2 * size.sum(
            others, dtype=np.float64
        )
        parts = list(np.flatnonzero(off))
        if parts and len(parts) <= x.shape[axis] // 2:
            a, b = x.take(parts, axis), y.take(parts, axis)
            there = _constant(a) or _search(a, b, likenesses(a, b))
            where = f"right except in {what} {', '.join(map(str, parts[:LISTED]))}"
            where += ", ..." if len(parts) > LISTED else ""
            if there is not None:
                return replace(there, text=f"{where}, which is {there.text}")
            left = (departs.sum() - departs.take(parts, axis).sum()) / (np.square(x).sum() or 1)
            return Relation(where, float(max(left, 0.0) ** 0.5))
    return None


def _listed(x: Array, y: Array, most: int) -> Relation | None:
    """The entries that differ, if there are at most `most` of them."""
    a, b = x.ravel(), y.ravel()
    off = np.flatnonzero(abs(a - b) > IN_PLACE * abs(b))
    if x.ndim > 2 or not 0 < len(off) <= most:
        return None
    text = ", ".join(f"entry {n} is {a[n]:.4g} and not {b[n]:.4g}" for n in off)
    rest = np.delete(a, off) - np.delete(b, off)
    return Relation(text, rms(rest) / (rms(a) or 1.0))


def _in_any_order(x: Array, y: Array) -> Relation | None:
    """Whether the values are the right ones in an order that no likeness describes."""
    if not LISTED < x.size <= WHOLE:
        return None
    left = rms(np.sort(x.ravel()) - np.sort(y.ravel())) / (rms(x) or 1.0)
    return Relation("the values of the right one, in another order", left) if left < SAME else None
