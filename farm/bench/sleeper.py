"""A stand-in for the engine that only sleeps, so that the benchmarks measure the farm alone."""

import time
from collections.abc import Generator
from typing import Any

from farm.model.plan import Kind, Stage
from farm.model.task_order import Made, Order, Step
from farm.store import Store

CLIP_S = 2.0  # how long a renderer sleeps for a clip
STEPS = 25  # denoising steps of a clip


class SleepingWorker:
    """Sleeps through a clip's tasks. Its module is the `engine` that `connect` takes."""

    def __init__(self, kind: Kind, device: str, store: Store, compiled: bool = False) -> None:
        """Load nothing; the parameters are those of `workers.worker.Worker`."""

    def run(self, order: Order, *_given: Any) -> Generator[Step, None, Any]:
        """Run a task: a clip's denoising takes CLIP_S in all, and every other task no time."""
        if order.task.stage is Stage.DENOISE:
            start, stop = order.task.span
            for step in range(start, stop):
                time.sleep(CLIP_S / STEPS)
                yield Step(step + 1)
        key = f"clips/{order.request.digest}/{order.attempt}"
        return Made("0" * 64, 0, key, key, key) if order.task.stage is Stage.MUX else "result"


Worker = SleepingWorker  # the name by which a worker's process finds it
