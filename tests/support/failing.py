"""An engine whose workers fail as the object `mode` in the store says; as the farm's own, else."""

import os
import signal
import time
from typing import Any

from farm.model.plan import Kind
from farm.model.task_order import Order
from farm.store import Store
from farm.workers import worker as workers

MODE = "mode"


class Worker(workers.Worker):
    """Fails at its start (raise, die, hang), or where it is to load a model (load)."""

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


def _mode(store: Store) -> str:
    stored = store.get(MODE)
    return stored.data.decode() if stored else ""
