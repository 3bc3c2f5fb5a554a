"""The errors that the farm raises.

FarmError
├── RequestError          the request can never be rendered: wrong parameters, picture or model
│   └── SizeError         the request asks for more work than is allowed
├── StoreError            the store cannot be read or written
│   ├── ConflictError     an object is not what a conditional write expected
│   ├── ConditionsError   the store does not support conditional writes
│   ├── MissingError      an object that was in the store before is gone
│   ├── VanishedError     the store itself is gone, or another store is in its place
│   └── LeaseError        another farm owns the store
├── UnreadableError       an object in the store is not what its key says
├── PictureMissingError   a job's picture must be written to the store first
├── QueueFullError        there is no room for another job; says when to try again
├── JobError              there is no such job, or its state does not allow the call
│   ├── JobFailedError    the job failed, so there is no clip
│   └── JobCancelledError the job was cancelled, so there is no clip
├── WorkerError           no worker could do the work: they died, or none could be started
│   ├── GpuMemoryError    a task does not fit a worker's GPU memory
│   ├── GangError         another worker of the gang that shares the task is gone or too late
│   └── ClusterLostError  the Ray cluster of this process is gone
├── AccessError           the server does not accept the key, or the key lacks the rights
│   └── QuotaError        the tenant has stored as much as it may
├── ServerError           the server does not answer, or is not a farm
└── OutboundError         a host on the web does not answer, or requests to it are forbidden
"""

import re

_DIRECTORIES = re.compile(r"(?<![\w.:/-])(?:file://)?/(?:[^\s'\"/]+/+)+")


def strip_directories(text: str) -> str:
    """Shorten the paths in a message to their file names, to show it to clients."""
    return _DIRECTORIES.sub("", text)


class FarmError(Exception):
    """The base of all errors that the farm raises on purpose; the message is for people."""


class RequestError(FarmError):
    """The request can never be rendered: its parameters, picture or model are wrong."""


class SizeError(RequestError):
    """The request exceeds the work allowed for a clip or a tenant; the message has both numbers."""


class StoreError(FarmError):
    """The store cannot be read or written. The message is for operators: it contains paths."""

    def __init__(self, message: str = "", *, reason: str = "it cannot be used now") -> None:
        """reason: a short text for clients, without paths or URLs."""
        super().__init__(message)
        self.reason = reason


class ConflictError(StoreError):
    """An object is not what a conditional write expected: somebody else has written it."""


class ConditionsError(StoreError):
    """The store does not honour conditional writes; the message names the conditions."""


class MissingError(StoreError):
    """An object that was in the store before is gone: a retry does not help."""


class VanishedError(StoreError):
    """The store is no longer in its place; it may come back."""


class LeaseError(StoreError):
    """Another farm owns the store."""


class UnreadableError(FarmError):
    """An object in the store is not what its key says; the message says why."""


class PictureMissingError(FarmError):
    """A job was submitted by its picture's digest, and the store does not have the picture."""


class QueueFullError(FarmError):
    """There is no room for another job now; `retry_after_s` says when to try again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class JobError(FarmError):
    """There is no such job, or its state does not allow the call."""

    def __init__(self, message: str = "", *, suggestion: str | None = None) -> None:
        """suggestion: `. Did you mean ...?` to append, or empty; None if none was searched for."""
        super().__init__(message)
        self.suggestion = suggestion

    def __str__(self) -> str:
        return f"{self.args[0]}{self.suggestion or ''}"


class JobFailedError(JobError):
    """The job failed, so there is no clip; the message says why."""


class JobCancelledError(JobError):
    """The job was cancelled, so there is no clip."""


class WorkerError(FarmError):
    """No worker could do the work: they died, or none could be started."""


class NoClusterError(WorkerError):
    """No Ray cluster runs on this machine, and none was named."""


class GpuMemoryError(WorkerError):
    """A task does not fit a worker's GPU memory; the message says what would fit."""


class GangError(WorkerError):
    """Another worker of the gang that shares the task is gone or too late."""


class ClusterLostError(WorkerError):
    """The Ray cluster of this process is gone; the jobs that it accepted are in the store."""


class AccessError(FarmError):
    """The server does not accept the key, or the key lacks the rights for the call."""


class QuotaError(AccessError):
    """The tenant has stored as much as it may; to try again does not help."""


class ServerError(FarmError):
    """The server does not answer, or is not a farm; the message has its URL."""


class OutboundError(FarmError):
    """A host on the web does not answer as it should, or requests to it are forbidden."""
