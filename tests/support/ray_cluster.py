"""A small local Ray cluster for tests, in a folder of its own, which is deleted at the end."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray


@contextmanager
def local_cluster() -> Iterator[None]:
    """A cluster for the block; any other cluster of this machine is left alone."""
    # The path of a socket holds at most 107 characters, so pytest's own folder is too long.
    folder = tempfile.mkdtemp(prefix="ray-")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        try:
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
                _temp_dir=folder,
            )
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
