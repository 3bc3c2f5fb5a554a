"""The way to a Ray cluster's coordinator: find or start it, and call it as an actor."""

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    RayError,
    RayTaskError,
)

import svd_engine
from farm.background import in_daemon_thread
from farm.caller import Door, current_caller
from farm.client.farm import Farm
from farm.client.proxy import FarmProxy
from farm.coordinator.coordinator import Coordinator
from farm.errors import (
    FarmError,
    LeaseError,
    NoClusterError,
    StoreError,
    WorkerError,
    strip_directories,
)
from farm.model.farm_api import Ready
from farm.ownership.lease import owner_of
from farm.ownership.owner import is_dead
from farm.settings import Settings, ray_address
from farm.store import identify, open_store
from farm.store.keys import LEASE
from farm.workers.cluster import join_cluster, running_cluster, start_cluster
from farm.workers.faults import last_line
from farm.workers.lifeline import Lifeline, lifeline

log = logging.getLogger("farm")
T = TypeVar("T")

PATIENCE_S = 120.0  # how long to wait for a coordinator that restarts or does not answer
RETRY_S = 0.5  # before a failed call is repeated
TICK_S = 0.5  # between two checks that an answer can still come
PING_S = 3.0  # between two pings of a coordinator during a long call
WARN_S = 10.0  # without an answer to a ping, after which a warning is logged
PEEK_S = 2.0  # how long to retry reading who owns a store


class RayLink:
    """Calls a Ray cluster's coordinator by method name, and outlasts its restarts."""

    def __init__(
        self,
        settings: Settings,
        lifeline: Lifeline,
        patience_s: float = PATIENCE_S,
        engine: str = "farm.workers.worker",
    ) -> None:
        """The coordinator is found, or started, at the first call.

        patience_s: how long to wait for a coordinator that is being restarted or does not answer.
        """
        self._settings, self._engine = settings, engine
        self._lifeline, self._patience_s = lifeline, patience_s
        self._actor: Any = None

    async def __call__(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call the coordinator until it answers.

        Raises the FarmError that the coordinator raised, WorkerError if it does not answer, or
        ClusterLostError.
        """
        until = time.monotonic() + self._patience_s
        while True:
            self._lifeline.check()
            try:
                if self._actor is None:
                    self._actor = await self._outlast(_found(self._settings, self._engine))
                    self._pulse = Pulse(self._actor, self._patience_s)
                call = _start_call(self._actor, method, *arguments, **keywords)
                return await self._outlast(_answer(call), self._pulse)
            except RayError as error:
                _raise_unless_retryable(error, method, until)
            self._actor = None
            await asyncio.sleep(RETRY_S)

    async def _outlast(self, work: Coroutine[Any, Any, T], pulse: "Pulse | None" = None) -> T:
        """Wait for the work while the cluster and the coordinator (`pulse`) are alive."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=TICK_S))[0]:
                self._lifeline.check()
                if pulse is not None:
                    pulse.check()
            return task.result()
        finally:
            task.cancel()


def _start_call(actor: Any, method: str, *arguments: Any, **keywords: Any) -> Any:
    """Call the coordinator for the current caller; one of an earlier version takes no callers."""
    caller = current_caller()
    if caller is None or not hasattr(actor, "called"):
        return getattr(actor, method).remote(*arguments, **keywords)
    return actor.called.remote(caller, method, *arguments, **keywords)


class Pulse:
    """Pings a coordinator, to tell a slow call from a coordinator that hangs or never started."""

    def __init__(self, actor: Any, patience_s: float) -> None:
        self._actor, self._patience_s = actor, patience_s
        self._lock = threading.Lock()
        self._ping: Any = None  # the ping that has not been answered yet
        self._sent = self._heard = time.monotonic()
        self._warned = False

    def check(self) -> None:
        """Ping if it is time to; raise WorkerError if a ping was unanswered for too long."""
        with self._lock:
            now = time.monotonic()
            if self._ping is not None and self._ping.done():  # errors are left to the call itself
                self._ping, self._heard, self._warned = None, now, False
            if self._ping is None:
                if now - self._heard > PING_S and hasattr(self._actor, "ping"):
                    self._ping, self._sent = self._actor.ping.remote().future(), now
                return
            silent = now - self._sent
            if silent > self._patience_s:
                raise WorkerError(
                    f"the coordinator has not answered for {silent:.0f} s: it hangs, or Ray cannot "
                    "start it; kill its process, and a new one continues from the store"
                )
            if silent > WARN_S and not self._warned:
                self._warned = True
                log.warning("the coordinator has not answered for %.0f s; still waiting", silent)


async def _found(settings: Settings, engine: str) -> Any:
    """The coordinator, looked for in a daemon thread: without a GCS the call never returns."""
    return await asyncio.wrap_future(in_daemon_thread(partial(start_coordinator, settings, engine)))


async def _answer(ref: Any) -> Any:
    return await ref


def _raise_unless_retryable(error: RayError, method: str, until: float) -> None:
    """Return if the call may be retried; otherwise raise the error for the caller."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, FarmError):
            raise error.cause from None
        raise WorkerError(f"the coordinator failed at {method}: {error.cause!r}") from error
    retryable = isinstance(error, (ActorDiedError, ActorUnavailableError))
    if not retryable or time.monotonic() > until:
        raise WorkerError(f"no coordinator: {strip_directories(last_line(error))}") from error


def start_coordinator(settings: Settings, engine: str = "farm.workers.worker") -> Any:
    """Return the cluster's coordinator, and start it if there is none.

    Raises StoreError if a coordinator has to be started, and its store cannot be used.
    """
    with suppress(ValueError):
        return ray.get_actor("coordinator", namespace="farm")
    # The store is identified here, once, so that a restarted coordinator accepts no other store.
    store = open_store(settings.store)
    store.check()
    return (
        ray.remote(Coordinator)
        .options(
            name="coordinator",
            namespace="farm",
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,  # all calls are idempotent
            max_concurrency=10_000,
        )
        .remote(settings, engine, identify(store))
    )


def connect(
    settings: Settings,
    engine: str = "farm.workers.worker",
    start: bool = True,
    door: Door = "python",
) -> Farm:
    """Join a Ray cluster, or start one, and connect to its farm.

    start: whether to start a cluster if none is running. A coordinator of an earlier version is
    replaced, and its jobs continue from the store. door: what kind of program this is.

    Raises StoreError if the store cannot be used, or if the cluster's farm uses another store than
    the settings name; WorkerError if there is no cluster, or if its farm has a later version.
    """
    joined = join_cluster(_owners_cluster(settings))
    if not joined:
        if not start:
            raise NoClusterError("no Ray cluster runs here, and therefore no farm")
        open_store(settings.store).check()  # fail before anything is started
        start_cluster()
    farm = Farm(FarmProxy(RayLink(settings, lifeline(), engine=engine), door))
    try:
        there = farm.ready()
    except LeaseError:
        ray.kill(ray.get_actor("coordinator", namespace="farm"))  # it owns no store
        owners = _owners_cluster(settings)
        if joined or ray_address() or running_cluster(owners) != owners:
            raise
        ray.shutdown()  # another program started a farm at the same time, and was faster: join it
        return connect(settings, engine, start, door)
    if _is_older(there):
        ray.kill(ray.get_actor("coordinator", namespace="farm"))
        farm = Farm(FarmProxy(RayLink(settings, lifeline(), engine=engine), door))
        there = farm.ready()
    if "store" in settings.model_fields_set and there["store"] != settings.store:
        raise StoreError(
            f"the cluster's farm keeps its store at {there['store']}, not {settings.store}: "
            "give that one, or none, as --store or FARM_STORE; or start a second farm, with "
            "RAY_ADDRESS=local"
        )
    return farm


def _is_older(there: Ready) -> bool:
    """Whether a farm is older than this program. Raises WorkerError if it is newer."""
    version, numerics = svd_engine.__version__, svd_engine.NUMERICS
    its = there["version"], there.get("numerics", 0)  # farms before 0.2.0 report no numerics
    if _age(*its) > _age(version, numerics):
        raise WorkerError(
            "the cluster's farm has version {} with numerics {}, ".format(*its)
            + f"and this program has {version} with numerics {numerics}: update this program"
        )
    return its != (version, numerics)


def _owners_cluster(settings: Settings) -> str:
    """The address of the cluster whose farm owns the store; empty if there is none or unknown."""
    try:
        stored = open_store(settings.store, make=False, patience_s=PEEK_S).get(LEASE)
    except StoreError:
        return ""
    owner = owner_of(stored.data) if stored else None
    return owner.address if owner and not is_dead(owner) else ""


def _age(version: str, numerics: int) -> tuple[list[int], int]:
    return [int(part) for part in version.split(".") if part.isdecimal()], numerics
