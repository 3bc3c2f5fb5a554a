"""A training loop that logs, saves itself, and goes on where it was stopped.

The batch of a step depends on the recipe and the step's number alone, so a run that was stopped
and started again sees what it would have seen.
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
from torch.utils.data import DataLoader, Dataset

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


def generator(*numbers: int) -> torch.Generator:
    """A generator of its own for each combination of numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(seed)


class Steps(Dataset[Batch]):
    """The batches of the steps from `start` on, one an item."""

    def __init__(self, draw: Callable[[int], Batch], start: int, stop: int) -> None:
        self.draw, self.start, self.stop = draw, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, item: int) -> Batch:
        return self.draw(self.start + item)


def train(
    name: str,
    folder: Path,
    networks: nn.ModuleDict,
    schedule: Schedule,
    draw: Callable[[int], Batch],
    loss: Callable[[Batch], Batch],
    workers: int = 0,
) -> None:
    """Minimise loss(batch)["loss"]; the rest of what it gives is logged.

    draw(step) makes the batch of a step, in one of so many processes; 0 for this one.
    FloatingPointError where the loss is not finite: what was saved before it stays.
    """
    weights = [p for p in networks.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.0)
    state = folder / f"{name}.pt"
    start = _resume(state, networks, optimizer)
    print(f"{name}: step {start} of {schedule.steps}", flush=True)
    if start >= schedule.steps:
        return
    device = weights[0].device
    begun = saved = time.monotonic()
    seen: dict[str, list[float]] = {}
    batches = DataLoader(Steps(draw, start, schedule.steps), batch_size=None, num_workers=workers)
    for step, batch in enumerate(batches, start):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        losses = loss({key: value.to(device) for key, value in batch.items()})
        if not losses["loss"].isfinite():
            raise FloatingPointError(f"{name}: the loss of step {step} is {losses['loss'].item()}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        for key, value in losses.items():
            seen.setdefault(key, []).append(value.item())
        now = time.monotonic()
        if (step + 1) % LOG_EVERY == 0:
            pace = (now - begun) / (step + 1 - start)
            means = {key: sum(values) / len(values) for key, values in seen.items()}
            _log(folder / f"{name}.jsonl", {"step": step + 1, **means, "seconds_per_step": pace})
            seen = {}
        if now - saved > SAVE_EVERY or step + 1 == schedule.steps:
            _save(state, step + 1, networks, optimizer)
            saved = now


def load_state(path: Path) -> dict[str, Any]:
    """What a training has saved: `step`, `networks`, `optimizer`."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def load_trained(folder: Path, name: str, steps: int) -> dict[str, Tensor]:
    """The weights of a run's code, vae or unet once it is trained for so many steps.

    SystemExit before: nothing is built on what is half learned.
    """
    path = folder / f"{name}.pt"
    state = load_state(path) if path.exists() else {"step": 0}
    if state["step"] < steps:
        raise SystemExit(f"{path}: step {state['step']} of {steps}; run train_{name}.py first")
    mine = f"{name}."
    networks = state["networks"].items()
    return {key.removeprefix(mine): value for key, value in networks if key.startswith(mine)}


def _log(path: Path, row: dict[str, float]) -> None:
    line = json.dumps({k: round(v, 5) for k, v in row.items()})
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")


def _save(path: Path, step: int, networks: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> None:
    """Whole or not at all: a run that is killed here keeps what was saved before."""
    scratch = path.with_suffix(".new")
    state = {"step": step, "networks": networks.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, scratch)
    scratch.replace(path)


def _resume(path: Path, networks: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state = load_state(path)
    networks.load_state_dict(state["networks"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
