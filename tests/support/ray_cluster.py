"""A small local Ray cluster for tests, in a folder of its own, which is deleted at the end."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def local_cluster(**options: object) -> Iterator[None]:
    """Run a cluster of this process's own; never joins one that runs on the machine."""
    # Not in pytest's folder: the path of a socket may have only 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-")
    before = os.environ.pop("RAY_ADDRESS", None)
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
            _temp_dir=folder,
            **options,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        if before is not None:
            os.environ["RAY_ADDRESS"] = before
