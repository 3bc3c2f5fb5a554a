"""Relations of a tensor to what is right, and what is free noise: pure functions of tensors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from svd_engine.conformance.draws import is_draw, spread_of_draw
from svd_engine.conformance.relations import describe

SHAPES = ((1, 5, 4, 16, 16), (1, 7, 4, 8, 10), (3, 3, 24, 40))


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smoothed(x: Tensor) -> Tensor:
    return avg_pool2d(x.reshape(-1, 1, *x.shape[-2:]), 3, 1, 1).reshape(x.shape)


def in_frame(x: Tensor, frame: int, factor: float) -> Tensor:
    factors = torch.ones(x.shape[-4])
    factors[frame] = factor
    return x * factors[:, None, None, None]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "0.9000 times the right one": lambda x: 0.9 * x,
    "minus the right one": lambda x: -x,
    "the right one, plus 0.5": lambda x: x + 0.5,
    "2.000 times the right one, less 1": lambda x: 2 * x - 1,
    "0.2500 times the right one (the root of it)": lambda x: x / 4,
    "the square of the right one": torch.square,
    "the right one, clamped to -0.2 and 0.3": lambda x: x.clamp(-0.2, 0.3),
    "the right one, rounded to bfloat16": lambda x: x.bfloat16().float(),
    "the right one, mirrored left to right": lambda x: x.flip(-1),
    "the right one, mirrored top to bottom": lambda x: x.flip(-2),
    "the right one, rotated by 180 degrees": lambda x: x.flip(-1, -2),
    "0.5000 times the right one, mirrored top to bottom": lambda x: x.flip(-2) / 2,
    "the right one, shifted by a pixel right": lambda x: x.roll(1, -1),
    "the right one, shifted by a pixel up and left": lambda x: x.roll((-1, -1), (-2, -1)),
    "the right one, shifted by half a pixel down": lambda x: (x + x.roll(1, -2)) / 2,
    "the right one, smoothed over 3 x 3 pixels": smoothed,
    "channels reversed": lambda x: x.flip(-3),
    "the right one, its frames reversed": lambda x: x.flip(-4),
    "the right one, its frames one place later": lambda x: x.roll(1, -4),
    "the right one, its frame 1 everywhere": lambda x: x.narrow(-4, 1, 1).expand_as(x),
    "read as if it were not": lambda x: x.transpose(-4, -3).reshape(x.shape),
    "right except in frame 1, which is 2.000 times": lambda x: in_frame(x, 1, 2.0),
    "the values of the right one, in another order": lambda x: x.flatten()[
        torch.randperm(x.numel(), generator=torch.Generator().manual_seed(1))
    ].reshape(x.shape),
    "0.3 everywhere": lambda x: torch.full_like(x, 0.3),
    "times another constant in each channel": lambda x: (
        x * torch.linspace(1, 2, x.shape[-3])[:, None, None]
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("says", CHANGES)
def test_a_relation_is_found(says: str, shape: tuple[int, ...]) -> None:
    right = smoothed(noise(shape))
    relation = describe(CHANGES[says](right), right, constants={"the root of it": 0.25})
    assert relation is not None
    assert says in relation.text
    assert relation.residual < 1e-5


@pytest.mark.parametrize(
    ("says", "turn"),
    [
        ("transposed", lambda x: x.mT),
        ("rotated by 90 degrees to the left", lambda x: x.rot90(1, (-2, -1))),
        ("rotated by 90 degrees to the right", lambda x: x.rot90(-1, (-2, -1))),
        ("transposed over the other diagonal", lambda x: x.rot90(2, (-2, -1)).mT),
    ],
)
def test_a_square_is_turned(says: str, turn: Callable[[Tensor], Tensor]) -> None:
    right = noise(SHAPES[0])
    relation = describe(turn(right), right)
    assert relation is not None
    assert relation.text == f"the right one, {says}"


@pytest.mark.parametrize("shape", SHAPES)
def test_what_has_no_relation_gets_none(shape: tuple[int, ...]) -> None:
    right = smoothed(noise(shape))
    assert describe(noise(shape, 1), right) is None
    assert describe(right + 0.3 * right.std() * noise(shape, 2), right) is None
    assert describe(torch.full(shape, torch.nan), right) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_only_near_is_a_relation_in_half_precision_alone(shape: tuple[int, ...]) -> None:
    right = smoothed(noise(shape))
    near = right.flip(-1) + 0.03 * right.std() * noise(shape, 2)
    assert describe(near, right) is None
    half = describe(near.bfloat16(), right)
    assert half is not None
    assert half.text == "the right one, mirrored left to right"


def test_other_tensors_may_be_meant() -> None:
    right, other = noise(SHAPES[0]), noise(SHAPES[0], 1)
    others = {"the other": other, "of another shape": noise((2, 2))}
    relation = describe(3 * other, right, others)
    assert relation is not None
    assert relation.text == "3.000 times the other"


def test_few_entries_are_told_one_by_one() -> None:
    relation = describe(torch.tensor([[6.0, 255.0, 0.02]]), torch.tensor([[6.0, 127.0, 0.02]]))
    assert relation is not None
    assert relation.text == "entry 1 is 255 and not 127"


def test_a_large_tensor_is_decided_on_its_middle() -> None:
    right = noise((2, 3, 576, 1024))
    relation = describe(0.9 * right.flip(-1), right)
    assert relation is not None
    assert relation.text == "0.9000 times the right one, mirrored left to right"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [*SHAPES, (1, 4, 7, 9)])
def test_noise_is_a_draw(shape: tuple[int, ...], seed: int) -> None:
    drawn, field = noise(shape, seed), smoothed(noise(shape, 100 + seed))
    assert is_draw(drawn, [field, field.exp()])
    assert not is_draw(0.7 * drawn, [field])
    assert spread_of_draw(0.7 * drawn, [field]) == pytest.approx(0.7, rel=0.2)


DISGUISES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mirrored": lambda right, _: right.flip(-1),
    "mixed": lambda right, other: 0.6 * right + 0.8 * other,
    "smooth": lambda _, other: smoothed(other) / smoothed(other).std(),
    "uniform": lambda _, other: 12**0.5 * (torch.special.ndtr(other) - 0.5),
    "clamped": lambda _, other: other.clamp(-1, 1) / other.clamp(-1, 1).std(),
    "one frame repeated": lambda _, other: other.narrow(-4, 0, 1).expand_as(other),
    "symmetric": lambda _, other: (other + other.flip(-1)) / 2**0.5,
    "wider where the right one is large": lambda right, other: (
        other * (1 + right).abs() / (1 + right).square().mean().sqrt()
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", DISGUISES)
def test_what_only_has_the_size_of_noise_is_no_draw(how: str, shape: tuple[int, ...]) -> None:
    right, other = noise(shape), noise(shape, 1)
    assert not is_draw(DISGUISES[how](right, other), [right])
