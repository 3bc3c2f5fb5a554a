"""The way to a cluster's coordinator, over Ray: find or start it, and call it."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    RayError,
    RayTaskError,
)

import svd_engine
from farm.coordinator.coordinator import Coordinator
from farm.errors import FarmError, LeaseError, StoreError, WorkerError, without_places
from farm.ownership.lease import owner_of
from farm.ownership.owner import is_dead
from farm.settings import Settings, ray_address
from farm.store import identify, open_store
from farm.store.keys import LEASE
from farm.workers.cluster import join_cluster, running_cluster, start_cluster
from farm.workers.lifeline import Lifeline, lifeline
from farm.workers.pool import last_line

log = logging.getLogger("farm")

PATIENCE_S = 120.0  # with a coordinator that is being restarted, or does not answer
RETRY_S = 0.5
TICK_S = 0.5  # between two looks whether an answer may still come
PING_S = 3.0  # between two pings of a coordinator that takes its time
WARN_S = 10.0  # without an answer, until a person is told
PEEK_S = 2.0  # with a store, to see who owns it


class Link:
    """Calls the coordinator by method name; outlasts its restarts."""

    def __init__(self, settings: Settings, engine: str = "farm.workers.worker") -> None:
        self._settings, self._engine = settings, engine
        self._lifeline = lifeline()
        self._find()

    def __call__(self, method: str, *arguments: Any) -> Any:
        """The call's result. Raises the FarmError that it raised, WorkerError, ClusterLostError."""
        until = time.monotonic() + PATIENCE_S
        while True:
            self._lifeline.check()
            try:
                return self._get(getattr(self._actor, method).remote(*arguments))
            except RayError as error:
                _raise_unless_passing(error, method, until)
            time.sleep(RETRY_S)
            self._find()

    def _find(self) -> None:
        """Find or start the coordinator; in a thread, since without a GCS it would block."""
        found = Future[Any]()
        arguments = found, start_coordinator, self._settings, self._engine
        threading.Thread(target=_fulfil, args=arguments, daemon=True).start()
        while not wait([found], TICK_S).done:
            self._lifeline.check()
        self._actor = found.result()
        self._pulse = Pulse(self._actor, PATIENCE_S)

    def _get(self, ref: Any) -> Any:
        while True:
            try:
                return ray.get(ref, timeout=TICK_S)
            except GetTimeoutError as error:
                if isinstance(error, RayTaskError):
                    raise  # the coordinator's own
            self._lifeline.check()
            self._pulse.check()


class AsyncLink:
    """A Link for an asyncio loop; it finds the coordinator at its first call."""

    def __init__(self, settings: Settings, lifeline: Lifeline, patience_s: float) -> None:
        """patience_s: with a coordinator that is being restarted, or does not answer."""
        self._settings, self._lifeline, self._patience_s = settings, lifeline, patience_s
        self._actor: Any = None

    async def __call__(self, method: str, *arguments: Any) -> Any:
        """The call's result. Raises the FarmError that it raised, WorkerError, ClusterLostError."""
        until = time.monotonic() + self._patience_s
        while True:
            self._lifeline.check()
            try:
                if self._actor is None:
                    find = asyncio.to_thread(start_coordinator, self._settings)
                    self._actor = await self._outlast(find)
                    self._pulse = Pulse(self._actor, self._patience_s)
                call = getattr(self._actor, method).remote(*arguments)
                return await self._outlast(_answer(call), self._pulse)
            except RayError as error:
                _raise_unless_passing(error, method, until)
            self._actor = None
            await asyncio.sleep(RETRY_S)

    async def _outlast(self, work: Coroutine[Any, Any, Any], pulse: "Pulse | None" = None) -> Any:
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=TICK_S))[0]:
                self._lifeline.check()
                if pulse is not None:
                    pulse.check()
            return task.result()
        finally:
            task.cancel()


class Pulse:
    """Tells a coordinator that takes its time from one that hangs, or was never started."""

    def __init__(self, actor: Any, patience_s: float) -> None:
        self._actor, self._patience_s = actor, patience_s
        self._lock = threading.Lock()
        self._ping: Any = None  # the one that is not answered yet
        self._sent = self._heard = time.monotonic()
        self._warned = False

    def check(self) -> None:
        """Ask now and then. WorkerError where there was no answer for too long."""
        with self._lock:
            now = time.monotonic()
            if self._ping is not None and self._ping.done():  # an error is told by the call itself
                self._ping, self._heard, self._warned = None, now, False
            if self._ping is None:
                if now - self._heard > PING_S and hasattr(self._actor, "ping"):
                    self._ping, self._sent = self._actor.ping.remote().future(), now
                return
            silent = now - self._sent
            if silent > self._patience_s:
                raise WorkerError(
                    f"the coordinator has not answered for {silent:.0f} s: it hangs, or Ray cannot "
                    "start it; end its process, and another goes on from the store"
                )
            if silent > WARN_S and not self._warned:
                self._warned = True
                log.warning("the coordinator has not answered for %.0f s; still waiting", silent)


async def _answer(ref: Any) -> Any:
    return await ref


def _fulfil(future: Future[Any], function: Callable[..., Any], *arguments: Any) -> None:
    try:
        future.set_result(function(*arguments))
    except BaseException as error:
        future.set_exception(error)


def _raise_unless_passing(error: RayError, method: str, until: float) -> None:
    """Return where the coordinator may be back soon; else raise what its caller is to know."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, FarmError):
            raise error.cause from None
        raise WorkerError(f"the coordinator failed at {method}: {error.cause!r}") from error
    passing = isinstance(error, (ActorDiedError, ActorUnavailableError))
    if not passing or time.monotonic() > until:
        raise WorkerError(f"no coordinator: {without_places(last_line(error))}") from error


def start_coordinator(settings: Settings, engine: str = "farm.workers.worker") -> Any:
    """The cluster's coordinator, started where there is none. StoreError: for lack of a store."""
    with suppress(ValueError):
        return ray.get_actor("coordinator", namespace="farm")
    # Once, before the first start: a coordinator that is started anew must find this same store.
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
            max_task_retries=-1,  # every call may be repeated
            max_concurrency=10_000,
        )
        .remote(settings, engine, identify(store))
    )


def connect(settings: Settings, engine: str = "farm.workers.worker", start: bool = True) -> Link:
    """Join a cluster, or start one, and its coordinator.

    start: False only joins one that runs. Raises StoreError where the store cannot be used, or the
    cluster's farm has another than the one asked for; WorkerError where there is no cluster, or its
    farm is of a later version. One of an earlier version is replaced: what it was at goes on from
    the store.
    """
    joined = join_cluster(_owners_cluster(settings))
    if not joined:
        if not start:
            raise WorkerError("no Ray cluster runs here, so no farm does")
        open_store(settings.store).check()  # before anything is started
        start_cluster()
    link = Link(settings, engine)
    try:
        there = link("ready")
    except LeaseError:
        ray.kill(ray.get_actor("coordinator", namespace="farm"))  # it has nothing
        owners = _owners_cluster(settings)
        if joined or ray_address() or running_cluster(owners) != owners:
            raise
        ray.shutdown()  # another program was starting at the same time, and was faster
        return connect(settings, engine, start)
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
            "give that one, or none, as --store or FARM_STORE; or start a farm beside it, with "
            "RAY_ADDRESS=local"
        )
    return link


def _owners_cluster(settings: Settings) -> str:
    """The address of the cluster whose farm owns the store; empty where nobody tells."""
    try:
        stored = open_store(settings.store, make=False, patience_s=PEEK_S).get(LEASE)
    except StoreError:
        return ""
    owner = owner_of(stored.data) if stored else None
    return owner.address if owner and not is_dead(owner) else ""


def _age(version: str, numerics: int) -> tuple[list[int], int]:
    return [int(part) for part in version.split(".") if part.isdecimal()], numerics
