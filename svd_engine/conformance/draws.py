"""Tells independent noise from other departures, since unit noise has no structure at all.

Of noise that another generator drew only the statistics are known. A departure is such a draw only
if it has all of them; one that is merely as large as noise is not.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

UNIT = 0.02  # tolerance of the mean and of the spread, beside what chance adds
MOMENT = 0.1  # the same for the third and the fourth moment
CORRELATED = 0.01  # the same for correlations
SIGMAS = 4.5  # how much chance may add, in standard deviations
BINS = 8  # of a field's values, for each of which the noise has to be unit noise
FEWEST = 64  # values; fewer are not enough to judge by


def is_draw(noise: Tensor, fields: Sequence[Tensor] = ()) -> bool:
    """Whether a tensor is independent noise of mean 0 and variance 1, within what chance allows.

    fields: tensors of the same shape that the noise must be independent of, such as the mean that
    it was added to, its predicted spread, and the noise that would be right.
    """
    z = noise.detach().float().cpu()
    if z.numel() < FEWEST or not z.isfinite().all():
        return False
    return (
        _is_unit(z)
        and _is_normal(z)
        and all(_is_unit(block) for block in _blocks(z))
        and all(_uncorrelated(*pair) for pair in _neighbours(z))
        and all(_is_independent(z, field.float().cpu()) for field in fields)
    )


def spread_of_draw(noise: Tensor, fields: Sequence[Tensor] = ()) -> float | None:
    """The spread of a tensor that is independent noise of mean 0; None if it is not."""
    spread = rms(noise)
    return spread if spread > 0 and is_draw(noise / spread, fields) else None


def rms(x: Tensor) -> float:
    """The root of the mean square, in float64."""
    return x.double().square().mean().sqrt().item()


def _is_unit(z: Tensor) -> bool:
    """Whether the mean is 0 and the variance 1, within what chance allows (chi-square)."""
    chance = SIGMAS / z.numel() ** 0.5
    spread = rms(z)
    return abs(z.mean().item()) < UNIT + chance and abs(spread - 1) < UNIT + chance / 2**0.5


def _is_normal(z: Tensor) -> bool:
    unit = z.double() / rms(z)
    chance = SIGMAS / z.numel() ** 0.5
    third, fourth = unit.pow(3).mean().item(), unit.pow(4).mean().item()
    return abs(third) < MOMENT + chance * 6**0.5 and abs(fourth - 3) < MOMENT + chance * 24**0.5


def _blocks(z: Tensor) -> Iterator[Tensor]:
    """Blocks of a tensor along each of its axes: up to four of each."""
    for axis, size in enumerate(z.shape):
        if size > 1:
            for block in z.chunk(min(size, 4), axis):
                if block.numel() >= FEWEST:
                    yield block


def _neighbours(z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each value with the next and the next but one along each axis, and with its mirror images."""
    for axis, size in enumerate(z.shape):
        for lag in (1, 2):
            if size > lag:
                yield z.narrow(axis, lag, size - lag), z.narrow(axis, 0, size - lag)
        if size > 3:
            half = size // 2
            yield z.narrow(axis, 0, half), z.flip(axis).narrow(axis, 0, half)


def _uncorrelated(a: Tensor, b: Tensor) -> bool:
    x, y = a.double() - a.double().mean(), b.double() - b.double().mean()
    norms = (x.square().sum() * y.square().sum()).sqrt().item()
    limit = CORRELATED + SIGMAS / a.numel() ** 0.5
    return norms == 0 or abs((x * y).sum().item()) / norms < limit


def _is_independent(z: Tensor, field: Tensor) -> bool:
    """No correlation with a field, its roughness or its mirror images; unit noise at all values."""
    rough = field - (field.roll(1, -1) + field.roll(-1, -1)) / 2
    images = [field, rough, *(field.flip(axis) for axis in range(field.ndim))]
    if not all(_uncorrelated(z, image) for image in (*images, field.abs())):
        return False
    ordered = z.flatten()[torch.argsort(field.flatten())]
    blocks = ordered.chunk(BINS)
    return all(_is_unit(block) for block in blocks if block.numel() >= FEWEST // 2)
