"""A training loop that logs, saves itself, and goes on where it was stopped.

On one kind of device, the batch of a step depends on the recipe and the step's number alone, so a
run that was stopped and started again sees what it would have seen.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAVE_EVERY = 120.0  # seconds
LOG_EVERY = 20  # steps

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how fast: a short warm-up, then half a cosine to zero."""

    steps: int
    learning_rate: float
    warm_up: int = 100

    def rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.warm_up)
        return warm * self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def generator(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for each combination of numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return torch.Generator(device).manual_seed(seed)


class Weights:
    """The trained weights of networks that compute in another dtype: these stay float32.

    A small step would be rounded away in half precision.
    """

    def __init__(self, networks: nn.ModuleDict, dtype: torch.dtype) -> None:
        self.networks = networks
        self.used: dict[str, Tensor] = {
            key: weight for key, weight in networks.named_parameters() if weight.requires_grad
        }
        self.kept = self.used
        if dtype is not torch.float32:
            self.kept = {k: p.detach().clone().requires_grad_() for k, p in self.used.items()}
            for weight in self.used.values():
                weight.data = weight.data.to(dtype)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the networks' gradients, step, and give the networks what came of it."""
        if self.kept is not self.used:
            self._take_gradients()
        nn.utils.clip_grad_norm_(self.kept.values(), 1.0)
        optimizer.step()
        if self.kept is not self.used:
            with torch.no_grad():
                torch._foreach_copy_(list(self.used.values()), list(self.kept.values()))

    def _take_gradients(self) -> None:
        found = {}
        for key, weight in self.kept.items():
            weight.grad = None
            if (grad := self.used[key].grad) is not None:
                weight.grad, found[key] = torch.empty_like(weight), grad
        torch._foreach_copy_([self.kept[key].grad for key in found], list(found.values()))

    def state_dict(self) -> dict[str, Tensor]:
        return self.networks.state_dict() | {k: p.detach() for k, p in self.kept.items()}


def compute_dtype(device: torch.device) -> torch.dtype:
    """What large networks compute in: bfloat16 on a GPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def train(
    name: str,
    folder: Path,
    networks: nn.ModuleDict,
    schedule: Schedule,
    draw: Callable[[int], Batch],
    loss: Callable[[Batch], Batch],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Minimise loss(batch)["loss"]; the rest of what it gives is logged.

    draw(step) makes the batch of a step. dtype: what the networks compute in. FloatingPointError
    where a loss is not finite: what was saved before it stays.
    """
    path = folder / f"{name}.pt"
    weights, optimizer, start = _resume(path, networks, dtype)
    print(f"{name}: step {start} of {schedule.steps}", flush=True)
    begun = saved = time.monotonic()
    seen: list[Batch] = []
    for step in range(start, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        losses = loss(draw(step))
        networks.zero_grad(set_to_none=True)
        losses["loss"].backward()
        weights.step(optimizer)
        seen.append({key: value.detach() for key, value in losses.items()})
        # Numbers are read off seldom: a GPU would be waited for each time.
        done = step + 1
        if done % LOG_EVERY == 0 or done == schedule.steps:
            row = {"step": done} | _means(name, seen, done)
            row["seconds_per_step"] = (time.monotonic() - begun) / (done - start)
            _log(folder / f"{name}.jsonl", row)
            seen = []
            if time.monotonic() - saved > SAVE_EVERY or done == schedule.steps:
                state = {"step": done, "networks": weights.state_dict()}
                save(path, state | {"optimizer": optimizer.state_dict()})
                saved = time.monotonic()


def _resume(
    path: Path, networks: nn.ModuleDict, dtype: torch.dtype
) -> tuple[Weights, torch.optim.Optimizer, int]:
    """As they were saved, and how many steps are done."""
    state = load_state(path) if path.exists() else None
    if state:
        networks.load_state_dict(state["networks"])
    weights = Weights(networks, dtype)
    optimizer = torch.optim.AdamW(weights.kept.values(), betas=(0.9, 0.99), weight_decay=0.0)
    if state:
        optimizer.load_state_dict(state["optimizer"])
    return weights, optimizer, int(state["step"]) if state else 0


def _means(name: str, seen: list[Batch], stop: int) -> dict[str, float]:
    """Of what was seen in the steps before `stop`."""
    for step, losses in enumerate(seen, stop - len(seen)):
        if not losses["loss"].isfinite():
            raise FloatingPointError(f"{name}: the loss of step {step} is {losses['loss'].item()}")
    return {key: torch.stack([one[key] for one in seen]).nanmean().item() for key in seen[0]}


def load_state(path: Path) -> dict[str, Any]:
    """What a training has saved: `step`, `networks`, `optimizer`."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def _log(path: Path, row: dict[str, float]) -> None:
    line = json.dumps({k: round(v, 5) for k, v in row.items() if math.isfinite(v)})
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")


def save(path: Path, data: Any) -> None:
    """Whole or not at all: a run that is killed here keeps what was saved before."""
    scratch = path.with_suffix(".new")
    torch.save(data, scratch)
    scratch.replace(path)
