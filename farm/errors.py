"""What can go wrong in the farm.

FarmError
├── RequestError   it can never be rendered as asked: its parameters, pictures or model
├── StoreError     the store cannot be read or written
└── WorkerError    no worker could finish it: they died, or none could be started
"""


class FarmError(Exception):
    """Any error the farm raises on purpose; the message is for people."""


class RequestError(FarmError):
    """A request that can never be rendered as asked."""


class StoreError(FarmError):
    """A store that cannot be read or written."""


class WorkerError(FarmError):
    """Work that no worker could finish."""
