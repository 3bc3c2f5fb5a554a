"""A small local Ray cluster for tests, in a folder of its own, which is deleted at the end."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import ray

from tests.support.farm_jobs import wait_for


@contextmanager
def local_cluster() -> Iterator[None]:
    """A cluster for the block; any other cluster of this machine is left alone.

    Most tests take the fixture `ray_cluster`, which shares one cluster between modules. A cluster
    of its own is for a test whose Ray processes need another environment.
    """
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
            # Serve takes seconds to import, and without a cluster it would start one.
            if ray.is_initialized() and "ray.serve" in sys.modules:
                sys.modules["ray.serve"].shutdown()
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def end_farm() -> None:
    """End the cluster's farm, and wait until its workers have given back what they held."""
    with suppress(ValueError):
        ray.kill(ray.get_actor("coordinator", namespace="farm"))
    wait_for(lambda: not _coordinator_exists() and _free_cpus() == ray.cluster_resources()["CPU"])


def _coordinator_exists() -> bool:
    named = ray.util.list_named_actors(all_namespaces=True)
    return {"name": "coordinator", "namespace": "farm"} in named


def _free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))
