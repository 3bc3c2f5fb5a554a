"""Sweeps: parameters of several values, a clip for each combination, and clips' titles. Pure."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from svd_engine.arguments import option, params_from
from svd_engine.params import RenderParams
from svd_engine.reader import LISTS
from svd_engine.values import as_label, is_given

MAX_CLIPS = 100_000  # of one picture
# Short names of parameters. None may contain `seed`: see `title`.
LABELS = {
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "min_guidance_scale": "min guidance",
    "max_guidance_scale": "max guidance",
    "motion_bucket_id": "motion",
    "noise_aug_strength": "noise",
    "decode_chunk_size": "chunk",
    "reuse_interval": "reuse",
}
# A row that gives one of the two overrides the other.
_RIVALS = {"sigmas": "num_inference_steps", "num_inference_steps": "sigmas"}
# Parameters that can contradict one another although each is valid alone.
_TOGETHER = ("num_inference_steps", "sigmas", "tier", "reuse_interval", "deviations")


@dataclass(frozen=True)
class Sweep:
    """The parameters that were given and their values: the seed first, then in RenderParams' order.

    Each combination of values is a clip of each picture.
    """

    axes: tuple[tuple[str, tuple[Any, ...]], ...]

    @property
    def varied(self) -> tuple[str, ...]:
        """The parameters that distinguish the clips of a picture; always includes the seed."""
        return tuple(name for name, values in self.axes if name == "seed" or len(values) > 1)

    def pin(self, params: Mapping[str, Any]) -> "Sweep":
        """The sweep of a picture with parameters of its own, which then have one value each.

        Raises ValueError if they contradict the other parameters.
        """
        own = {name: (value,) for name, value in params.items()}
        gone = {_RIVALS.get(name) for name in own} - set(own)
        axes = {name: values for name, values in self.axes if name not in gone} | own
        if own:
            _check_together(axes)
        return _sweep(axes)

    def combinations(self) -> list[dict[str, Any]]:
        """The values of RenderParams for each clip; the seed changes most slowly."""
        names = [name for name, _ in self.axes]
        return [dict(zip(names, v, strict=True)) for v in product(*(v for _, v in self.axes))]

    def variation(self, combination: Mapping[str, Any]) -> dict[str, Any]:
        """The values that distinguish this combination from the others."""
        return {name: combination[name] for name in self.varied}


def parse_sweep(options: Mapping[str, str], seeds: str) -> Sweep:
    """The sweep of option texts such as `{"fps": "7,12"}`. ValueError names the option at fault."""
    axes: dict[str, tuple[Any, ...]] = {"seed": tuple(parse_seeds(seeds))}
    for name, text in options.items():
        # The commas of a list separate its items, so it is a single value.
        texts = [text] if name in LISTS else [part.strip() for part in text.split(",")]
        if not is_given(text):
            continue
        if not all(texts):
            raise ValueError(f"{option(name)}: a value is missing, got {text!r}")
        values = (getattr(params_from(argparse.Namespace(**{name: t})), name) for t in texts)
        axes[name] = tuple(dict.fromkeys(values))
    if "sigmas" in axes and len(axes.get("num_inference_steps", ())) > 1:
        raise ValueError("--num-inference-steps: one value or none beside --sigmas, which decide")
    sweep = _sweep(axes)
    _check_together(axes)
    clips = prod(len(values) for _, values in sweep.axes)
    if clips > MAX_CLIPS:
        swept = ", ".join(f"{len(v)} of {name}" for name, v in sweep.axes if len(v) > 1)
        raise ValueError(f"{swept}: that is {clips} clips of each picture, more than {MAX_CLIPS}")
    return sweep


def parse_seeds(text: str) -> list[int]:
    """The seeds of `3`, `0-3` or `0-3,7`, in order and each once. Raises ValueError."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--seeds: {part!r} is neither a seed nor a range such as 0-3")
        start, end = int(first), int(last or first)
        if not start <= end < 2**64:
            raise ValueError(f"--seeds: {part!r} must rise, and stay below 2^64")
        if end - start + len(seeds) >= MAX_CLIPS:
            raise ValueError(f"--seeds: {part!r} makes more than {MAX_CLIPS} clips of each picture")
        seeds |= dict.fromkeys(range(start, end + 1))
    return list(seeds)


def title(name: str, variation: Mapping[str, Any]) -> str:
    """The name of a clip in files and logs: `cat-seed0`, or `cat-seed0-motion40` in a sweep.

    Titles are unique: the last `-seed` ends the picture's name, and a part is a label and a value.
    """
    parts = (
        f"{label(axis).replace(' ', '')}{as_label(value)}" for axis, value in variation.items()
    )
    return "-".join((name, *parts))


def label(axis: str) -> str:
    """The short name of a parameter."""
    return LABELS.get(axis, axis)


def _check_together(axes: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise ValueError, which names an option, if its values contradict those of others."""
    together = {name: values for name, values in axes.items() if name in _TOGETHER}
    for combination in _sweep(together).combinations():
        params_from(argparse.Namespace(), **combination)


def _sweep(axes: Mapping[str, tuple[Any, ...]]) -> Sweep:
    names = sorted(RenderParams.model_fields, key=lambda name: name != "seed")
    return Sweep(tuple((name, axes[name]) for name in names if name in axes))
