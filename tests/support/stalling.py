"""An engine that hangs once: the first denoising task never ends."""

import time
from collections.abc import Generator
from typing import Any

from farm.errors import ConflictError
from farm.model.plan import Kind, Stage
from farm.model.task_order import Order, Step
from farm.store import Store
from farm.workers import worker as workers


class StallingWorker(workers.Worker):
    """The farm's own worker, with this addition."""

    def __init__(self, kind: Kind, device: str, store: Store, compiled: bool = False) -> None:
        super().__init__(kind, device, store, compiled)
        self._marks = store

    def run(self, order: Order, *given: Any) -> Generator[Step, bool | None, Any]:
        work = super().run(order, *given)
        yield next(work)  # the model is loaded
        if order.task.stage is Stage.DENOISE:
            try:
                self._marks.put("hung", b"", if_none_match=True)
            except ConflictError:
                pass
            else:
                time.sleep(10_000)
        return (yield from work)


Worker = StallingWorker  # the name by which a worker's process finds it
