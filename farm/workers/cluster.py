"""Ray clusters: join or start one, list its nodes, and have it read the facts of models."""

import asyncio
import logging
import socket
import time
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import ray
from ray._private import services
from ray._private.authentication import authentication_token_setup
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.exceptions import RayError, RayTaskError

from farm.background import Background
from farm.errors import ClusterLostError, FarmError, RequestError, WorkerError, strip_directories
from farm.model.request import Model, ModelFacts
from farm.recent import Recent
from farm.scheduling.placement import Node
from farm.settings import ray_address
from farm.workers.actor import free_torch_threads
from farm.workers.faults import last_line
from farm.workers.lifeline import lifeline
from svd_engine.variants import Variants, variants_of

ANSWER_S = 2.0  # how long a server on this machine may take to accept a connection
FACTS_S = 300.0  # facts older than this are read again, because a model's files may change
READS = 4  # models read at once; each takes a process that loads torch
REFUSED_S = 30.0  # how long a missing model is remembered
REFUSED_KEPT = 1000  # how many missing models are remembered

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


def join_cluster(prefer: str = "") -> bool:
    """Join the cluster at RAY_ADDRESS, or one that runs on this machine; False if there is none.

    prefer: the address of the cluster to join if several run. Raises WorkerError if the cluster
    cannot be joined.
    """
    if session():
        return True
    if ray.is_initialized():  # in a cluster that is gone
        ray.shutdown()
    named, address = ray_address(), cluster_address(prefer)
    if address == "local" or not (address or named):
        return False
    if not address or not may_be_joined(address):
        raise WorkerError(  # now, because Ray would retry for minutes
            f"no Ray cluster answers at {named}: start one there, or unset RAY_ADDRESS"
        )
    _init(address, f"cannot join the Ray cluster at {address}")
    return True


def start_cluster() -> None:
    """Start a cluster that ends with this process. Raises WorkerError."""
    _init("local", "cannot start a Ray cluster")


def cluster_address(prefer: str = "") -> str:
    """The value of RAY_ADDRESS, or if it names no cluster, one that runs here as below."""
    named = ray_address()
    return running_cluster(prefer) if named in ("", "auto") else named


def may_be_joined(address: str) -> bool:
    """Whether a server listens at a cluster's address; True for ray://, which is not looked at."""
    return "://" in address or answers(address)


def running_cluster(prefer: str = "") -> str:
    """The address of a cluster that runs on this machine, if possible `prefer`; empty if none."""
    quiet_ray()
    found = {prefer} if prefer else set()
    with suppress(ConnectionError):
        found.add(services.canonicalize_bootstrap_address("auto") or "")
    found |= services.find_gcs_addresses()
    # Ray may remember the address of a dead cluster, and would try to join it for two minutes.
    running = next((a for a in sorted(found, key=lambda a: a != prefer) if answers(a)), "")
    if running:  # Ray does the same for clusters that it finds by itself
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return running


def answers(address: str) -> bool:
    """Whether a server listens at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def _init(address: str, otherwise: str) -> None:
    quiet_ray()
    dashboard = False if address == "local" else None
    try:
        ray.init(address, include_dashboard=dashboard, **_QUIET)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise WorkerError(f"{otherwise}: {error}") from error


def quiet_ray() -> None:
    """Leave out a warning of Ray's at each start that all is well: that it asks for a token."""
    logging.getLogger(authentication_token_setup.__name__).addFilter(_matters)


def _matters(record: logging.LogRecord) -> bool:
    return "Token authentication is enabled" not in record.getMessage()


def own_actor() -> tuple[str, str]:
    """The id of this process's actor, and the address of its cluster; both empty without Ray."""
    if not ray.is_initialized():
        return "", ""
    context = ray.get_runtime_context()
    return context.get_actor_id() or "", context.gcs_address


def session() -> str:
    """The id of this process's node in its Ray cluster; empty if there is none, or it died."""
    if not ray.is_initialized():
        return ""
    try:
        lifeline().check()
    except ClusterLostError:
        return ""
    return str(ray.get_runtime_context().get_node_id())


def check_token() -> None:
    """Raise RequestError if this process's Ray cluster accepts anybody.

    Ray listens at the machine's own address, and without a token it runs any code for anybody who
    can connect, no matter which keys the farm has.
    """
    if not is_token_auth_enabled():
        raise RequestError(
            "Ray asks for no token, and runs any code for anybody who reaches its ports: start it, "
            "and everything that joins it, with RAY_AUTH_MODE=token (`ray get-auth-token "
            "--generate` makes a token; every node must have it)"
        )


def live_nodes() -> list[Node]:
    """The cluster's live nodes, with their total resources."""
    # Ray has no public call for the nodes that `ray drain-node`, or its autoscaler, takes away. A
    # version without this one leaves their workers alone until they die.
    ask = getattr(ray._private.state.state, "get_draining_nodes", dict)
    leaving: dict[str, int] = ask()
    nodes = [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [
        Node(name, int(has.get("GPU", 0)), float(has.get("CPU", 0)), name in leaving)
        for name, has in nodes
    ]


class Models:
    """A cache of the facts of models, refreshed in the background.

    Reading a model's facts takes a process that loads torch and reads all weights. To bound that, a
    variant that a model does not have is refused without a process, missing models are remembered
    for a while, and each tenant has one process at a time, so that no tenant waits for models that
    another has made up.
    """

    def __init__(self, background: Background, load_s: float) -> None:
        """load_s: how long reading a model may take."""
        self._background, self._load_s = background, load_s
        self._known: dict[Model, asyncio.Task[ModelFacts]] = {}
        self._asked_at: dict[Model, float] = {}
        self._refused = Recent[Model, tuple[float, str]](REFUSED_KEPT)  # until when, and the reason
        self._lists = Background(READS)  # threads of their own, because a hub may hang
        self._variants = Recent[str, tuple[float, asyncio.Task[Variants]]](REFUSED_KEPT)
        self._at_once = asyncio.Semaphore(READS)
        self._of_tenants = WeakValueDictionary[str, asyncio.Semaphore]()

    async def facts(self, model: Model, tenant: str = "") -> ModelFacts:
        """A model's digest and defaults. Raises RequestError if there is no such model."""
        model = model.model_copy(update={"dtype": "float32"})  # facts do not depend on the type
        known = self._cached(model)
        if known is None:
            self._check_refused(model)
            await self._check_variant(model)
            # Another call may have started a process meanwhile: then share it.
            known = self._known[model] = self._cached(model) or self._ask(model, tenant)
        elif time.monotonic() - self._asked_at.get(model, 0.0) > FACTS_S:
            again = self._ask(model, tenant)
            again.add_done_callback(lambda done: self._known.update({model: done}))
        try:
            return await asyncio.shield(known)
        except FarmError as error:  # do not keep the names of missing models, which may be many
            self._known.pop(model, None)
            self._asked_at.pop(model, None)
            if isinstance(error, RequestError):
                self._refused[model] = time.monotonic() + REFUSED_S, str(error)
            raise

    def _cached(self, model: Model) -> "asyncio.Task[ModelFacts] | None":
        """The task that reads or has read a model's facts; None if there is none, or it failed."""
        known = self._known.get(model)
        failed = known is not None and known.done() and (known.cancelled() or known.exception())
        return None if failed else known

    def _check_refused(self, model: Model) -> None:
        """Raise RequestError if the model was found missing within the last REFUSED_S."""
        until, why = self._refused.get(model, (0.0, ""))
        if time.monotonic() < until:
            raise RequestError(why)

    async def _check_variant(self, model: Model) -> None:
        """Raise RequestError if the list of the model's files has no such variant."""
        if model.variant is None:
            return
        until, listed = self._variants.get(model.name, (0.0, None))
        if listed is None or time.monotonic() > until:
            listed = self._lists.start(
                self._lists.call(variants_of, model.name), handled=(Exception,)
            )
            self._variants[model.name] = time.monotonic() + REFUSED_S, listed
        found = await asyncio.shield(listed)
        if found is not None and model.variant not in found:
            there = ", ".join(sorted(each or "none" for each in found)) or "no weights at all"
            raise RequestError(
                f"{model.name} has no weights of the variant {model.variant!r}; it has: {there}"
            )

    def _ask(self, model: Model, tenant: str) -> "asyncio.Task[ModelFacts]":
        self._asked_at[model] = time.monotonic()
        return self._background.start(self._read(model, tenant), handled=(Exception,))

    async def _read(self, model: Model, tenant: str) -> ModelFacts:
        mine = self._of_tenants.setdefault(tenant, asyncio.Semaphore(1))
        async with mine, self._at_once:
            return await describe_model(model, self._load_s)


async def describe_model(model: Model, limit_s: float) -> ModelFacts:
    """Read a model's digest and defaults in a process of the cluster.

    Raises RequestError if there is no such model, and WorkerError if it cannot be read in time.
    """
    call = ray.remote(num_cpus=0, max_calls=1)(_describe).remote(model)
    try:
        async with asyncio.timeout(limit_s):
            facts: ModelFacts = await call
    except TimeoutError as error:
        ray.cancel(call, force=True)
        raise WorkerError(f"{model.name} could not be read within {limit_s:g} s") from error
    except RayTaskError as error:
        cause: Any = error.cause
        own = isinstance(cause, (ValueError, FileNotFoundError))
        raise RequestError(str(cause) if own else f"{type(cause).__name__}: {cause}") from error
    except RayError as error:
        raise WorkerError(
            f"no process could read the model: {strip_directories(last_line(error))}"
        ) from error
    return facts


def _describe(model: Model) -> ModelFacts:
    free_torch_threads()
    from farm.workers.engines import describe

    return describe(model)
