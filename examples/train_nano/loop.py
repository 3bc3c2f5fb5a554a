"""A training loop that logs, saves itself, and goes on where it was stopped.

The batch of a step depends on the recipe and the step's number alone, so a run that was stopped
and started again sees what it would have seen.
"""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SAVE_EVERY = 120.0  # seconds
LOG_EVERY = 20  # steps


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


def train(
    name: str,
    folder: Path,
    networks: nn.ModuleDict,
    schedule: Schedule,
    batches: Callable[[int], Iterable[Any]],
    loss: Callable[[int, Any], dict[str, Tensor]],
) -> None:
    """Minimise loss(step, batch)["loss"]; the rest of what it gives is logged.

    batches(start) gives the batches of the steps from `start` on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = [p for p in networks.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.0)
    state = folder / f"{name}.pt"
    start = _resume(state, networks, optimizer)
    begun = saved = time.monotonic()
    seen: dict[str, list[float]] = {}
    for step, batch in zip(range(start, schedule.steps), batches(start), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        losses = loss(step, batch)
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


def loader(data: Dataset[Any], workers: int) -> DataLoader[Any]:
    """The examples of a dataset whose items are whole batches, in order."""
    return DataLoader(data, batch_size=None, shuffle=False, num_workers=workers)


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
    state = torch.load(path, weights_only=True)
    networks.load_state_dict(state["networks"])
    optimizer.load_state_dict(state["optimizer"])
    print(f"{path.name}: going on at step {state['step']}", flush=True)
    return state["step"]
