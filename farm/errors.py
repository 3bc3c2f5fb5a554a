"""What can go wrong in the farm.

FarmError
├── RequestError       it can never be rendered as asked: its parameters, picture or model
│   └── SizeError      it asks for more work than is allowed
├── StoreError         the store cannot be read or written
│   ├── ConflictError  an object is not what a conditional write expected
│   ├── ConditionsError it has no conditional writes
│   ├── MissingError   an object that was there before is gone
│   ├── VanishedError  the store itself is gone, or another is in its place
│   └── LeaseError     the store is another farm's
├── UnreadableError    an object of the store is not what its key says
├── QueueFullError     no room for another job; it says when to try again
├── JobError           there is no such job, or its state does not allow what was asked of it
│   ├── JobFailedError     a job whose clip was wanted has failed; it says why
│   └── JobCancelledError  it was cancelled
├── WorkerError        no worker could finish it: they died, or none could be started
│   ├── GpuMemoryError a task that does not fit a worker's GPU memory
│   ├── GangError      another of the workers that share a task is gone, or too late
│   └── ClusterLostError  the Ray cluster that this process was in is gone
├── AccessError        a server does not know the key, or does not allow it what was asked
├── ServerError        a server does not answer, or not as a farm does
└── OutboundError      a host on the web that does not answer, or that the farm may not ask
"""

import re

_PLACE = re.compile(r"(?<![\w.:/-])(?:file://)?/(?:[^\s'\"/]+/+)+")


def without_places(text: str) -> str:
    """A message for a client: of a path of this machine, no more than its last part."""
    return _PLACE.sub("", text)


class FarmError(Exception):
    """Any error the farm raises on purpose; the message is for people."""


class RequestError(FarmError):
    """A request that can never be rendered as asked."""


class SizeError(RequestError):
    """More work than a clip may take, or a tenant may have open; the message has both numbers."""


class StoreError(FarmError):
    """A store that cannot be read or written. The message is for operators: it names places."""

    def __init__(self, message: str = "", *, reason: str = "it cannot be used now") -> None:
        """reason: for everybody, without places."""
        super().__init__(message)
        self.reason = reason


class ConflictError(StoreError):
    """An object that is not what a conditional write expected: somebody else wrote it."""


class ConditionsError(StoreError):
    """A store that does not keep the conditions of conditional writes; the message names them."""


class MissingError(StoreError):
    """An object that was there before is gone: asking again does not help."""


class VanishedError(StoreError):
    """A store that is not where it was; it may come back."""


class LeaseError(StoreError):
    """A store that another farm owns."""


class UnreadableError(FarmError):
    """An object of the store that is not what its key says; the message says why."""


class QueueFullError(FarmError):
    """No room for another job."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class JobError(FarmError):
    """No such job, or one whose state does not allow what was asked."""

    def __init__(self, message: str = "", *, suggestion: str | None = None) -> None:
        """suggestion: `; did you mean ...?`, ends the message; None where nobody has looked."""
        super().__init__(message)
        self.suggestion = suggestion

    def __str__(self) -> str:
        return f"{self.args[0]}{self.suggestion or ''}"


class JobFailedError(JobError):
    """A job whose clip was wanted, and that has failed; the message says why."""


class JobCancelledError(JobError):
    """A job whose clip was wanted, and that was cancelled."""


class WorkerError(FarmError):
    """Work that no worker could finish."""


class GpuMemoryError(WorkerError):
    """A task that does not fit a worker's GPU memory; the message says what would."""


class GangError(WorkerError):
    """Another of the workers that share a task is gone, or too late."""


class ClusterLostError(WorkerError):
    """The Ray cluster that this process was in is gone; what it was asked is in the store."""


class AccessError(FarmError):
    """A server does not know the key, or does not allow it what was asked."""


class ServerError(FarmError):
    """A server that does not answer, or not as a farm does; the message has its URL."""


class OutboundError(FarmError):
    """A host on the web that does not answer as it should, or that the farm may not ask."""
