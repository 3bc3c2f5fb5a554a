"""The way to a cluster's coordinator, over Ray: find or start it, and call it."""

import asyncio
import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

import svd_engine
from farm.cluster import join_cluster
from farm.coordinator import Coordinator
from farm.errors import FarmError, StoreError, WorkerError
from farm.pool import last_line
from farm.settings import Settings
from farm.store import open_store

PATIENCE_S = 120.0  # with a coordinator that is being restarted
RETRY_S = 0.5


class Link:
    """Calls the coordinator by method name; outlasts its restarts."""

    def __init__(self, settings: Settings, engine: str = "farm.workers") -> None:
        self._settings, self._engine = settings, engine
        self._actor = start_coordinator(settings, engine)

    def __call__(self, method: str, *arguments: Any) -> Any:
        """The call's result. Raises the FarmError that it raised, or WorkerError."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ray.get(getattr(self._actor, method).remote(*arguments))
            except RayError as error:
                _raise_unless_passing(error, method, until)
            time.sleep(RETRY_S)
            self._actor = start_coordinator(self._settings, self._engine)


class AsyncLink:
    """A Link for an asyncio loop; it finds the coordinator at its first call."""

    def __init__(self, settings: Settings, engine: str = "farm.workers") -> None:
        self._settings, self._engine = settings, engine
        self._actor: Any = None

    async def __call__(self, method: str, *arguments: Any) -> Any:
        """The call's result. Raises the FarmError that it raised, or WorkerError."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(
                        start_coordinator, self._settings, self._engine
                    )
                return await getattr(self._actor, method).remote(*arguments)
            except RayError as error:
                _raise_unless_passing(error, method, until)
            self._actor = None
            await asyncio.sleep(RETRY_S)


def _raise_unless_passing(error: RayError, method: str, until: float) -> None:
    """Return where the coordinator may be back soon; else raise what its caller is to know."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, FarmError):
            raise error.cause from None
        raise WorkerError(f"the coordinator failed at {method}: {error.cause!r}") from error
    passing = isinstance(error, (ActorDiedError, ActorUnavailableError))
    if not passing or time.monotonic() > until:
        raise WorkerError(f"no coordinator: {last_line(error)}") from error


def start_coordinator(settings: Settings, engine: str = "farm.workers") -> Any:
    """The cluster's coordinator, started where there is none."""
    return (
        ray.remote(Coordinator)
        .options(
            name="coordinator",
            namespace="farm",
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,  # every call may be repeated
            max_concurrency=10_000,
        )
        .remote(settings, engine)
    )


def connect(settings: Settings, engine: str = "farm.workers", start: bool = True) -> Link:
    """Join a cluster, or start one, and its coordinator.

    start: False only joins one that runs. Raises StoreError where the store cannot be used, or the
    cluster's farm has another than the one asked for; WorkerError where there is no cluster, or its
    farm is of a later version. One of an earlier version is replaced: what it was at goes on from
    the store.
    """
    if start:
        open_store(settings.store).check()
    join_cluster(start)
    link = Link(settings, engine)
    there = link("ready")
    version, numerics = svd_engine.__version__, svd_engine.NUMERICS
    its = there["version"], there.get("numerics", 0)  # not counted before 0.2.0
    if _age(*its) > _age(version, numerics):
        raise WorkerError(
            "the cluster's farm is version {} with numerics {}, ".format(*its)
            + f"this is {version} with numerics {numerics}"
        )
    if its != (version, numerics):
        ray.kill(ray.get_actor("coordinator", namespace="farm"))
        link = Link(settings, engine)
        there = link("ready")
    if "store" in settings.model_fields_set and there["store"] != settings.store:
        raise StoreError(
            f"the cluster's farm keeps its store at {there['store']}, not {settings.store}: "
            "give that one, or none, as --store or FARM_STORE"
        )
    return link


def _age(version: str, numerics: int) -> tuple[list[int], int]:
    return [int(part) for part in version.split(".") if part.isdecimal()], numerics
