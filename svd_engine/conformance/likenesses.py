"""Ways in which a wrong tensor may come from the right one: mirrored, shifted, permuted, rounded.

The last axes of a tensor of four or five dimensions are frames, channels, height and width; in
five, the first is the halves of the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product

import numpy as np
import torch

from svd_engine.conformance.fits import Array, times_each

Relate = Callable[[Array, Array], tuple[Array, Array]]

AXES = {-1: "column", -2: "row", -3: "channel", -4: "frame", -5: "half"}
RIGHT = "the right one"
WHOLE = 2**21  # values up to which orders in memory are tried over the frames as well
MOST = 64  # places of an axis that are matched with one another
PIXELS = 2**12  # of each place: enough to match the places
ALIKE = 1e-6  # cosines that differ by less are equal


@dataclass(frozen=True)
class Likeness:
    """Something that a tensor may be equal to, up to constants."""

    simplicity: int  # the smaller, the simpler
    text: str
    relate: Relate  # turns theirs and the right one into tensors that should be equal
    fitted: bool = True  # whether constants may be fitted as well
    sample: str = "frames"  # the part that it can be tried on: one of `relations.SAMPLES`
    other: str = ""  # the tensor that takes the right one's place, by name


def alone(function: Callable[[Array], Array]) -> Relate:
    """A relation that changes the right one alone."""
    return lambda a, b: (a, function(b))


def likenesses(x: Array, y: Array) -> Iterator[Likeness]:
    """The likenesses of a tensor x to the right one y, of the same shape."""
    yield Likeness(0, RIGHT, lambda a, b: (a, b))
    yield from _by_value(x)
    yield from _along_axes(x, y)
    if x.ndim >= 4:
        yield from _turned(x.shape)
        yield from _moved(x.shape)
        yield from _in_memory(x)


def _by_value(x: Array) -> Iterator[Likeness]:
    low, high = float(x.min()), float(x.max())
    clamp = alone(lambda b: b.clip(low, high))
    yield Likeness(3, f"{RIGHT}, clamped to {low:.4g} and {high:.4g}", clamp, fitted=False)
    for dtype in (torch.float16, torch.bfloat16):
        text = f"{RIGHT}, rounded to {str(dtype).removeprefix('torch.')}"
        yield Likeness(4, text, alone(partial(_rounded, dtype=dtype)), fitted=False)
    functions: tuple[tuple[str, Callable[[Array], Array]], ...] = (
        ("the square of the right one", np.square),
        ("the square root of the right one, with its sign", lambda b: np.sign(b) * abs(b) ** 0.5),
        ("the right one without its sign", np.abs),
        ("the right one, rounded to whole numbers", np.round),
        ("e to the power of the right one", lambda b: np.exp(b.clip(-80, 80))),
        ("the logarithm of the right one", lambda b: np.log(abs(b) + 1e-30)),
    )
    for text, function in functions:
        yield Likeness(25, text, alone(function))


def stretched(x: Array) -> Iterator[Likeness]:
    """Constants of their own for each frame, channel and so on, which explain much by chance."""
    for axis, what in AXES.items():
        if x.ndim >= max(-axis, 3) and 1 < x.shape[axis] <= MOST and x.size // x.shape[axis] > 8:
            for summand, also in ((False, ""), (True, ", and plus another one")):
                text = f"{RIGHT}, times another constant in each {what}{also}"
                relate = partial(_times_each, axis=axis, summand=summand)
                yield Likeness(32 + summand, text, relate, fitted=False, sample="pixels")


def _rounded(b: Array, dtype: torch.dtype) -> Array:
    return torch.from_numpy(np.ascontiguousarray(b)).to(dtype).float().numpy()


def _times_each(a: Array, b: Array, axis: int, summand: bool) -> tuple[Array, Array]:
    return a, times_each(a, b, axis, summand)


def _turned(shape: Sequence[int]) -> Iterator[Likeness]:
    """Flips and rotations of height and width."""
    flips = (((-1,), "mirrored left to right"), ((-2,), "mirrored top to bottom"))
    for axes, text in (*flips, ((-1, -2), "rotated by 180 degrees")):
        yield Likeness(10, f"{RIGHT}, {text}", alone(partial(np.flip, axis=axes)))
    if shape[-1] != shape[-2]:
        return
    turn = partial(np.rot90, axes=(-2, -1))
    yield Likeness(11, f"{RIGHT}, transposed", alone(lambda b: b.swapaxes(-1, -2)))
    for turns, way in ((1, "left"), (-1, "right")):
        text = f"{RIGHT}, rotated by 90 degrees to the {way}"
        yield Likeness(11, text, alone(partial(turn, k=turns)))
    across = alone(lambda b: turn(b, k=2).swapaxes(-1, -2))
    yield Likeness(11, f"{RIGHT}, transposed over the other diagonal", across)


def _moved(shape: Sequence[int]) -> Iterator[Likeness]:
    """Shifts by a pixel and by half of one, and smoothing. The edges are left out."""
    if min(shape[-2:]) < 4:
        return
    for down, right in product((-1, 0, 1), repeat=2):
        words = {1: "down", -1: "up"}.get(down), {1: "right", -1: "left"}.get(right)
        where = " and ".join(word for word in words if word)
        if where:
            text = f"{RIGHT}, shifted by a pixel {where}"
            yield Likeness(12, text, partial(_shifted, down=down, right=right))
            text = f"{RIGHT}, shifted by half a pixel {where}"
            yield Likeness(14, text, partial(_half_shifted, down=down, right=right))
    yield Likeness(16, f"{RIGHT}, smoothed over 3 x 3 pixels", _smoothed)


def _cut(x: Array, down: int, right: int) -> Array:
    """Leave out the first (1) or last (-1) rows and columns."""
    kept = {0: slice(None), 1: slice(1, None), -1: slice(None, -1)}
    return x[..., kept[down], kept[right]]


def _shifted(a: Array, b: Array, down: int, right: int) -> tuple[Array, Array]:
    return _cut(a, down, right), _cut(b, -down, -right)


def _half_shifted(a: Array, b: Array, down: int, right: int) -> tuple[Array, Array]:
    own = _cut(a, down, right)
    if down:
        b = (_cut(b, 1, 0) + _cut(b, -1, 0)) / 2
    if right:
        b = (_cut(b, 0, 1) + _cut(b, 0, -1)) / 2
    return own, b


def _smoothed(a: Array, b: Array) -> tuple[Array, Array]:
    rows = b[..., :-2, :] + b[..., 1:-1, :] + b[..., 2:, :]
    return a[..., 1:-1, 1:-1], (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def _in_memory(x: Array) -> Iterator[Likeness]:
    """The right values, read with their axes in another order than they were written in."""
    kept = 4 if x.size <= WHOLE else 3
    head, tail = tuple(range(x.ndim - kept)), tuple(range(x.ndim - kept, x.ndim))
    letters = dict(zip(range(x.ndim - 4, x.ndim), "FCHW", strict=True))
    seen = {_order(x.shape, tail)}
    for order in permutations(tail):
        if _order(x.shape, order) in seen:  # it differs only in axes of one place
            continue
        seen.add(_order(x.shape, order))
        written = ", ".join(letters[axis] for axis in order)
        text = f"{RIGHT}, written as [{written}] and read as if it were not"
        relate = alone(partial(_reread, order=(*head, *order)))
        sample = "whole" if kept == 4 else "frame"
        yield Likeness(18, text, relate, fitted=False, sample=sample)


def _order(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis in axes if shape[axis] > 1)


def _reread(b: Array, order: Sequence[int]) -> Array:
    return b.transpose(order).reshape(b.shape)


def _along_axes(x: Array, y: Array) -> Iterator[Likeness]:
    """Channels, frames, halves or entries that are taken from other places."""
    names = (
        {axis: what for axis, what in AXES.items() if axis < -2} if x.ndim > 3 else {-1: "entry"}
    )
    for axis, what in names.items():
        if -axis > x.ndim or not 1 < x.shape[axis] <= MOST or (x.ndim < 3 and x.size < 3):
            continue
        places = list(range(x.shape[-1]))[::-1] if x.ndim <= 2 else _places(x, y, axis)
        if places != list(range(x.shape[axis])):
            text = f"{RIGHT}, {_words(places, what)}"
            relate = alone(partial(np.take, indices=places, axis=axis))
            yield Likeness(9, text, relate, sample="pixels")


def _places(x: Array, y: Array, axis: int) -> list[int]:
    """Which place of y each place of x is most like, by the cosine."""

    def rows(tensor: Array) -> Array:
        flat = np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)
        flat = flat[:, :: max(1, flat.shape[1] // PIXELS)].astype(np.float64)
        norms = np.linalg.norm(flat, axis=1, keepdims=True)
        return np.asarray(flat / np.where(norms == 0, 1.0, norms))

    cosines = abs(rows(x) @ rows(y).T)
    own = np.diagonal(cosines)
    best = cosines.argmax(1)
    return [
        n if own[n] >= cosines[n, place] - ALIKE else int(place) for n, place in enumerate(best)
    ]


def _words(places: list[int], what: str) -> str:
    """An order of places in words."""
    count = len(places)
    several = {"half": "halves", "entry": "entries"}.get(what, f"{what}s")
    if places == list(range(count))[::-1]:
        swapped = {"half": "its halves swapped", "channel": "its channels reversed (RGB and BGR)"}
        return (
            swapped.get(what, f"its {several} reversed") if count < 4 else f"its {several} reversed"
        )
    if len(set(places)) == 1:
        return f"its {what} {places[0]} everywhere"
    for step in (1, -1):
        moved = [n - step for n in range(count)]
        whole = [place % count for place in moved]
        if places == whole or places == [min(max(place, 0), count - 1) for place in moved]:
            return f"its {several} one place {'later' if step > 0 else 'earlier'}"
    for times in (2, 3, 4):
        if places == [n // times for n in range(count)]:
            return f"each of its first {several} {times} times"
    return f"its {several} in the order {', '.join(map(str, places))}"
