"""An engine whose workers fail in the way that the object `mode` in the store names."""

import os
import signal
import time
from typing import Any

from farm.model.plan import Kind
from farm.model.task_order import Order
from farm.store import Store
from farm.workers import worker as workers

MODE = "mode"


class FailingWorker(workers.Worker):
    """Fails when it starts (raise, die, hang) or loads a model (load); works in any other mode."""

    def __init__(self, kind: Kind, device: str, store: Store, compiled: bool = False) -> None:
        mode = _mode(store)
        if mode == "raise":
            raise ImportError("libcudart.so.13: cannot open shared object file")
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "hang":
            time.sleep(10_000)
        super().__init__(kind, device, store, compiled)
        self._marks = store

    def _load(self, order: Order) -> Any:
        if _mode(self._marks) == "load":
            time.sleep(10_000)
        return super()._load(order)


Worker = FailingWorker  # the name by which a worker's process finds it


def _mode(store: Store) -> str:
    stored = store.get(MODE)
    return stored.data.decode() if stored else ""
