"""Traces: the tensors that a render computed, by name and in the order of computation.

clip.pixels (1, 3, 224, 224)         clip.embedding (1, 1, D)
image.noise, image.augmented (1, 3, H, W)              image.latent (1, C, h, w)
time_ids (1, 3)    guidance (F)      sigmas (S + 1)    timesteps (S)
latents.init (1, F, C, h, w)
step.000.model_input (2, F, 2C, h, w)     step.000.model_output (2, F, C, h, w)
step.000.guided, step.000.latents (1, F, C, h, w)      and so on for each step
decode.latents (F, C, h, w)          frames (F, 3, H, W) in [-1, 1]
frames.uint8 (F, H, W, 3)
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from svd_engine.params import DtypeName
from svd_engine.video import replacing

FORMAT = "svd-trace/1"
BEFORE = (
    *("clip.pixels", "clip.embedding", "image.noise", "image.augmented", "image.latent"),
    *("time_ids", "guidance", "sigmas", "timesteps", "latents.init"),
)
OF_STEP = ("model_input", "model_output", "guided", "latents")
AFTER = ("decode.latents", "frames", "frames.uint8")


class TraceError(ValueError):
    """A trace cannot be read, or lacks what is needed."""


def step_key(step: int, what: str) -> str:
    """The name of a tensor of a step."""
    return f"step.{step:03d}.{what}"


def split_key(key: str) -> tuple[str, int | None]:
    """A tensor's name without the number of its step, as in step.latents, and that number."""
    head, _, rest = key.partition(".")
    number, _, what = rest.partition(".")
    return (f"step.{what}", int(number)) if head == "step" and number.isdecimal() else (key, None)


def rank(key: str) -> tuple[int, int, int, str]:
    """The sort key for the order of computation. Unknown names come last."""
    name, step = split_key(key)
    what = name.removeprefix("step.")
    if step is not None and what in OF_STEP:
        return 1, step, OF_STEP.index(what), key
    for part, names in ((0, BEFORE), (2, AFTER)):
        if key in names:
            return part, 0, names.index(key), key
    return 3, 0, 0, key


@dataclass(frozen=True)
class Trace(Mapping[str, Tensor]):
    """Tensors by name, which are read on demand, and what the header says about them."""

    homes: Mapping[str, Tensor | Path]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Tensor:
        home = self.homes[key]
        if isinstance(home, Tensor):
            return home
        if home.suffix == ".npy":
            return _from_npy(home)
        with safe_open(home, "pt") as file:
            names = file.keys()
            return file.get_tensor(key if key in names else names[0])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.homes, key=rank))

    def __len__(self) -> int:
        return len(self.homes)

    def save(self, path: Path) -> None:
        """Write one safetensors file, with `about` in its header."""
        header = {name: json.dumps(value) for name, value in self.about.items()}
        with replacing(path) as scratch:
            save_file(
                {key: self[key].contiguous() for key in self}, scratch, {"format": FORMAT} | header
            )


def open_trace(path: Path) -> Trace:
    """Open a trace file, or a folder of .npy and .safetensors files. Raises TraceError."""
    if path.is_dir():
        homes: dict[str, Tensor | Path] = {}
        about: dict[str, Any] = {}
        for file in sorted(path.iterdir()):
            if file.suffix == ".npy":
                homes[file.stem] = file
            elif file.suffix == ".safetensors":
                names, header = _look(file)
                homes |= dict.fromkeys([file.stem] if len(names) == 1 else names, file)
                about |= header
        if not homes:
            raise TraceError(f"{path} contains no .npy or .safetensors files")
        return Trace(homes, about)
    if not path.exists():
        raise TraceError(f"there is no {path}: give a trace file, or a folder of tensors")
    if path.suffix == ".npy":
        raise TraceError(f"{path} is a single tensor: give the folder it is in")
    names, about = _look(path)
    return Trace(dict.fromkeys(names, path), about)


def _look(file: Path) -> tuple[list[str], dict[str, Any]]:
    """The names of a file's tensors, and what its header says if it is a trace of ours."""
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise TraceError(f"{file} is not a safetensors file: {error}") from error
    if header.get("format") != FORMAT:
        return names, {}
    return names, _about(file, header)


def _about(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """Parse the header of a trace. Raises TraceError if it was not written by `Trace.save`."""
    try:
        about = {name: json.loads(text) for name, text in header.items() if name != "format"}
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{file} has a header that cannot be read: {error}") from error
    if not isinstance(about.get("params", {}), dict):
        raise TraceError(f"{file} has a header whose params are not a JSON object")
    if about.get("dtype", "float32") not in get_args(DtypeName):
        raise TraceError(f"{file} has a header with the dtype {about['dtype']!r}")
    return about


def _from_npy(file: Path) -> Tensor:
    try:
        with file.open("rb") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
        return torch.from_numpy(native)
    except Exception as error:  # numpy's errors, and those of its header's parser
        raise TraceError(f"{file} cannot be read as an array: {error}") from error


def align(theirs: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, str] | None:
    """Bring a tensor into the right shape, and describe its layout; None if that is impossible.

    Known layouts are [B*F, C, H, W], [B, C, F, H, W], channels last, and dimensions of 1 left out.
    """
    if theirs.shape == shape:
        return theirs, ""
    if theirs.numel() != prod(shape):
        return None
    bare = [size for size in shape if size != 1]
    if [size for size in theirs.shape if size != 1] == bare:
        return theirs.reshape(shape), f"as {list(theirs.shape)}"
    if len(shape) == 5:
        b, f, c, h, w = shape
        if theirs.shape == (b * f, c, h, w):
            return theirs.reshape(shape), "as [B*F, C, H, W]"
        if theirs.shape in ((b, c, f, h, w), (c, f, h, w)):
            return theirs.reshape(b, c, f, h, w).transpose(1, 2), "as [B, C, F, H, W]"
    if len(shape) == 4 and theirs.shape == (shape[0], *shape[2:], shape[1]):
        return theirs.permute(0, 3, 1, 2), "channels last"
    if len(shape) == 4 and theirs.shape == (shape[0], shape[3], *shape[1:3]):
        return theirs.permute(0, 2, 3, 1), "channels first"
    return None
