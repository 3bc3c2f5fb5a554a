"""What a worker's process tells of a task: the fields of all that it logs meanwhile, and a span."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from farm.logs import bound
from farm.model.task_order import Order
from farm.tracing import Span, Tracer, child_of, parse_traceparent, span_of_job

log = logging.getLogger("farm")


@contextmanager
def logged(order: Order, worker: str, tracer: Tracer) -> Iterator[None]:
    """Run a task within this context, in the thread that runs it."""
    began, since, error = time.time(), time.monotonic(), ""
    fields = {"clip": order.request.digest, "task": order.task.key, "attempt": order.attempt}
    with bound(**order.trail.fields, **fields, worker=worker):
        try:
            yield
            log.info("%s took %.2f s", order.task.key, time.monotonic() - since)
        except BaseException as raised:
            error = type(raised).__name__  # its text may have secrets
            raise
        finally:
            if tracer.on:
                tracer.export(
                    _span(order, worker, (began, began + time.monotonic() - since), error)
                )


def _span(order: Order, worker: str, times: tuple[float, float], error: str) -> Span:
    parent = span_of_job(order.trail.job, parse_traceparent(order.trail.traceparent))
    attributes = {
        "job": order.trail.job,
        "tenant": order.trail.tenant,
        "clip": order.request.digest,
        "task": order.task.key,
        "stage": order.task.stage.value,
        "worker": worker,
        "attempt": order.attempt,
    }
    name = order.task.stage.value
    return Span(name, child_of(parent), parent, *times, attributes=attributes, error=error)
