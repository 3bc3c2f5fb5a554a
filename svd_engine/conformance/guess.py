"""Guesses our names for a port's tensors by their shapes and order, where the port has its own.

The tensors are taken in the order of their names, whose numbers are read as numbers, and compared
with what a trace has in the order of computation. Where names make several series, such as v_0, v_1
and x_0, x_1, a number stands for a step, and what belongs to one step is taken together. The guess
that names the most tensors is chosen; of several such guesses, the one in which the tensors are
those that ports record most often.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import TypeAlias

from torch import Tensor

from svd_engine.conditioning import frame_shape, latent_shape
from svd_engine.conformance.inside import is_block
from svd_engine.conformance.replay import STAGES, Case
from svd_engine.conformance.traces import (
    AFTER,
    BEFORE,
    OF_STEP,
    Trace,
    align,
    split_key,
    step_key,
)
from svd_engine.picture_pixels import CLIP_SIDE

Shape: TypeAlias = tuple[int, ...]

NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")  # a name and its last number
MATCHED = 100  # points for a tensor that gets a name
LACKS = 10  # points lost for a step that lacks a tensor that other steps have
# More points for a tensor that is recorded more often than others of its shape.
USUAL = {"image.augmented": 2, "timesteps": 2}
# What is recorded of each step, the most usual first: it is chosen over others that fit as well.
KINDS = (
    (),
    ("latents",),
    ("model_output",),
    ("model_input", "model_output"),
    ("model_output", "latents"),
    ("model_input", "model_output", "latents"),
)


@dataclass(frozen=True)
class _Recorded:
    """What is known of a tensor that has no known name."""

    tensor: Tensor  # without its data
    of_bytes: bool


def with_guessed_names(case: Case) -> Case:
    """The case, with our names for tensors of unknown names where they can be guessed."""
    names = guess_names(case)
    return replace(case, trace=renamed(case.trace, names), guessed=names)


def guess_names(case: Case) -> dict[str, str]:
    """Our names for the tensors of unknown names, by the names that the port gave.

    A tensor whose shape is not that of any stage gets no name.
    """
    theirs, shapes = case.trace, _shapes(case)
    unknown = [key for key in theirs if split_key(key)[0] not in STAGES and not is_block(key)]
    fits = dict[str, Mapping[str, int]]()
    for key in unknown:
        recorded = _seen(theirs[key], shapes)
        fits[key] = {name: _gain(recorded, name, shapes[name]) for name in shapes}
    tensors = _ordered(unknown, fits)
    gains = [fits[key] for key in tensors]
    best, points = dict[int, str](), 0
    every = (kinds for n in range(len(OF_STEP) + 1) for kinds in combinations(OF_STEP, n))
    for kinds in dict.fromkeys((*KINDS, *every)) if tensors else ():
        names = [key for key in _order(case.params.steps, kinds) if key not in theirs]
        found, score = _match(gains, names)
        if score > points:
            best, points = found, score
    return {tensors[i]: name for i, name in sorted(best.items())}


def renamed(theirs: Trace, names: Mapping[str, str]) -> Trace:
    """The trace with other names for some of its tensors."""
    homes = {
        names.get(key, key): theirs[key] if key in names else home
        for key, home in theirs.homes.items()
    }
    return replace(theirs, homes=homes)


def _ordered(keys: Sequence[str], fits: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The names in the order of computation, as far as names and shapes show it."""
    series = _series(keys)
    if len(series) < 2:
        return sorted(keys, key=_natural)

    def rank(key: str, names: Sequence[str]) -> int:
        """The index of the first of these names that the tensor fits; past the end if none does."""
        return next((at for at, name in enumerate(names) if fits[key][name]), len(names))

    of_step = [f"step.{what}" for what in OF_STEP]
    series.sort(key=lambda members: rank(next(iter(members.values())), of_step))
    numbers = sorted({number for members in series for number in members})
    steps = [members[number] for number in numbers for members in series if number in members]
    single = sorted(set(keys) - set(steps), key=lambda key: (rank(key, (*BEFORE, *AFTER)), key))
    before = [key for key in single if rank(key, BEFORE) < len(BEFORE)]
    return [*before, *steps, *(key for key in single if key not in before)]


def _series(keys: Sequence[str]) -> list[dict[int, str]]:
    """The names that differ only in their last number, by that number."""
    series: dict[tuple[str, str], dict[int, str]] = {}
    for key in sorted(keys, key=_natural):
        if parts := NUMBERED.fullmatch(key):
            stem, number, rest = parts.groups()
            series.setdefault((stem, rest), {})[int(number)] = key
    return [members for members in series.values() if len(members) > 1]


def _natural(key: str) -> list[tuple[int, int, str]]:
    """The sort key of a name, in which t10 comes after t9."""
    parts = re.split(r"(\d+)", key)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _seen(tensor: Tensor, shapes: Mapping[str, Shape]) -> _Recorded:
    of_bytes = not tensor.is_floating_point()
    if not of_bytes and tensor.numel() == prod(shapes["frames"]):
        # Frames that were saved as float32: whole numbers, and not within [-1, 1].
        of_bytes = bool((tensor == tensor.round()).all()) and bool((tensor > 1).any())
    return _Recorded(tensor.to("meta"), of_bytes)


def _shapes(case: Case) -> dict[str, Shape]:
    """The shape of each stage's tensor."""
    params, unet = case.params, case.engine.unet.config
    frames, channels, high, wide = latent_shape(params, case.channels)
    width, height, _ = frame_shape(params)
    halves, steps = (2 if params.guided else 1), params.steps
    clip = (1, frames, channels, high, wide)
    return {
        "clip.pixels": (1, 3, CLIP_SIDE, CLIP_SIDE),
        "clip.embedding": (1, 1, unet.per_block("cross_attention_dim")[0]),
        **dict.fromkeys(("image.noise", "image.augmented"), (1, 3, height, width)),
        "image.latent": (1, channels, high, wide),
        "time_ids": (1, 3),
        "guidance": (frames,),
        "sigmas": (steps + 1,),
        "timesteps": (steps,),
        **dict.fromkeys(("latents.init", "step.guided", "step.latents"), clip),
        "step.model_input": (halves, frames, unet.in_channels, high, wide),
        "step.model_output": (halves, frames, channels, high, wide),
        "decode.latents": clip[1:],
        "frames": (frames, 3, height, width),
        "frames.uint8": (frames, height, width, 3),
    }


def _order(steps: int, kinds: Sequence[str]) -> Iterator[str]:
    """The names of a trace with some kinds of tensors at each step."""
    yield from BEFORE
    for step in range(steps):
        yield from (step_key(step, kind) for kind in kinds)
    yield from AFTER


def _match(gains: Sequence[Mapping[str, int]], names: Sequence[str]) -> tuple[dict[int, str], int]:
    """The names that the tensors get, by the tensors' numbers, and the points for them.

    Tensors and names keep their order. gains: the points of each tensor for the name of each stage,
    which it cannot get if they are 0.
    """
    stages = [split_key(name) for name in names]
    lost = [0 if step is None else LACKS for _, step in stages]
    # points[i][j]: the most that the first i tensors and the first j names can get.
    points = [[-sum(lost[:j]) for j in range(len(names) + 1)]]
    for gain in gains:
        above = points[-1]
        row = above[:1]
        for j, (stage, _) in enumerate(stages):
            most = max(above[j + 1], row[j] - lost[j])
            row.append(max(most, above[j] + gain[stage]) if gain[stage] else most)
        points.append(row)
    found, i, j = dict[int, str](), len(gains), len(names)
    while i and j:
        gained = gains[i - 1][stages[j - 1][0]]
        if gained and points[i][j] == points[i - 1][j - 1] + gained:
            i, j = i - 1, j - 1
            found[i] = names[j]
        elif points[i][j] == points[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return found, points[-1][-1]


def _gain(recorded: _Recorded, name: str, shape: Shape) -> int:
    """Points for giving a tensor a name; 0 if its shape or its type does not fit."""
    if align(recorded.tensor, shape) is None:
        return 0
    if recorded.of_bytes != (name == "frames.uint8") and (recorded.of_bytes or "frames" in name):
        return 0
    return MATCHED + USUAL.get(name, 0) + (tuple(recorded.tensor.shape) == shape)
