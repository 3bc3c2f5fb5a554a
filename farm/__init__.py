"""A farm of SVD engines on Ray. Importing this loads neither ray nor torch.

import farm

job = farm.submit("photo.jpg", seed=7, motion_bucket_id=90)
job.wait().save("clip.mp4")
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

# What the extra `farm` installs. Without one of them, an import would fail somewhere below.
NEEDED = (
    *("boto3", "fastapi", "fastapi_offline", "httpx2", "pydantic_settings", "python_multipart"),
    *("ray", "sortedcontainers", "tenacity"),
)
_missing = [name for name in NEEDED if find_spec(name) is None]
if _missing:
    raise ModuleNotFoundError(
        f"the farm needs packages that the engine alone does not ({', '.join(_missing)}): "
        "pip install 'svd-render-farm[farm]'",
        name=_missing[0],
    )
if TYPE_CHECKING:
    from farm.client.connection import Connection, connect, submit, submit_many
    from farm.client.job import Job, as_completed

# Imported on first use, because the coordinator and its workers import this package too.
_HOMES = {
    "Connection": "farm.client.connection",
    "Job": "farm.client.job",
    "as_completed": "farm.client.job",
    "connect": "farm.client.connection",
    "submit": "farm.client.connection",
    "submit_many": "farm.client.connection",
}
__all__ = ["Connection", "Job", "as_completed", "connect", "submit", "submit_many"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'farm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
