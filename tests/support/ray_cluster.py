"""Ray for tests: a small local cluster in a folder of its own, gone at the end."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def local_cluster(**options: object) -> Iterator[None]:
    """One for a module's tests; whatever cluster the machine has is left alone."""
    # A socket's path holds 107 characters, so not pytest's own folder.
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
