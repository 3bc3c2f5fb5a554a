"""Turns an error in a worker into the fault by which the scheduler decides about a retry."""

import logging

from farm.errors import (
    GangError,
    GpuMemoryError,
    MissingError,
    RequestError,
    StoreError,
    WorkerError,
    strip_directories,
)
from farm.scheduling.state import Fault

log = logging.getLogger("farm")


class StoppedError(Exception):
    """A task ended because it was asked to stop."""


class HandedOverError(Exception):
    """A task saved a checkpoint, from which another worker is to continue, and ended."""


class TaskError(Exception):
    """A task has failed. The message is for clients."""

    def __init__(self, fault: Fault, message: str, worker: str = "") -> None:
        """worker: the one that caused the failure, if several share the task."""
        super().__init__(message)
        self.fault, self.worker = fault, worker


_FAULTS: tuple[tuple[type[BaseException], Fault], ...] = (
    (RequestError, Fault.REQUEST),
    (MissingError, Fault.STALE),
    (StoreError, Fault.STORE),
    (GpuMemoryError, Fault.MEMORY),
    (GangError, Fault.GANG),
    (WorkerError, Fault.ERROR),
    (StoppedError, Fault.STOPPED),
    (HandedOverError, Fault.STALE),
)


def task_error(cause: BaseException) -> TaskError:
    """The error for clients, without paths; operators find the full error in the log."""
    log.warning("a worker: %s: %s", type(cause).__name__, cause)
    fault = next((fault for kind, fault in _FAULTS if isinstance(cause, kind)), None)
    if isinstance(cause, StoreError) and fault is not None:
        return TaskError(fault, f"the farm's store: {cause.reason}")
    if fault is None:
        return TaskError(Fault.ERROR, strip_directories(f"{type(cause).__name__}: {cause}"))
    return TaskError(fault, strip_directories(str(cause)))


def last_line(error: BaseException) -> str:
    """The last line of an error's message, in which Ray says why an actor died."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
