"""A farm of SVD engines on Ray. Importing this loads neither ray nor torch.

import farm

job = farm.submit("photo.jpg", seed=7, motion_bucket_id=90)
job.wait().save("clip.mp4")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farm.connection import Connection, connect, submit, submit_many
    from farm.handle import Job, as_completed

# Loaded on first use: the coordinator and its workers import this package too.
_HOMES = {
    "Connection": "farm.connection",
    "Job": "farm.handle",
    "as_completed": "farm.handle",
    "connect": "farm.connection",
    "submit": "farm.connection",
    "submit_many": "farm.connection",
}
__all__ = ["Connection", "Job", "as_completed", "connect", "submit", "submit_many"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'farm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
