"""What a worker's process logs of a task, and the fields of all that it logs meanwhile."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from farm.logs import bound
from farm.model.task_order import Order

log = logging.getLogger("farm")


@contextmanager
def logged(order: Order, worker: str) -> Iterator[None]:
    """Run a task within this context, in the thread that runs it."""
    began = time.monotonic()
    fields = {"clip": order.request.digest, "task": order.task.key, "attempt": order.attempt}
    with bound(**order.trail.fields, **fields, worker=worker):
        yield
        log.info("%s took %.2f s", order.task.key, time.monotonic() - began)
