"""Ray: join or start a cluster, look at its nodes, ask it about a model."""

import asyncio
import logging
import socket
import time
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import ray
from ray._private import services
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.exceptions import RayError, RayTaskError

from farm.background import Background
from farm.errors import ClusterLostError, FarmError, RequestError, WorkerError, without_places
from farm.model.request import Model, ModelFacts
from farm.recent import Recent
from farm.scheduling.placement import Node
from farm.settings import ray_address
from farm.workers.actor import free_torch_threads
from farm.workers.faults import last_line
from farm.workers.lifeline import lifeline
from svd_engine.variants import Variants, variants_of

ANSWER_S = 2.0  # for what listens on this machine to answer
FACTS_S = 300.0  # a model may be changed under the farm
LOOKS = 4  # at models at once: each is a process that loads torch
REFUSED_S = 30.0  # for which a model that is not there is remembered
REFUSED_KEPT = 1000  # such models

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


def join_cluster(prefer: str = "") -> bool:
    """Join the cluster of RAY_ADDRESS or one that runs on this machine; False where none does.

    prefer: the address of the one to join where several run. WorkerError where RAY_ADDRESS cannot
    be joined.
    """
    if session():
        return True
    if ray.is_initialized():  # to a cluster that is gone
        ray.shutdown()
    named = ray_address()
    address = running_cluster(prefer) if named in ("", "auto") else named
    if address == "local" or not (address or named):
        return False
    if not address or ("://" not in address and not answers(address)):  # Ray would try for minutes
        raise WorkerError(
            f"no Ray cluster answers at {named}: start one there, or unset RAY_ADDRESS"
        )
    _init(address, f"cannot join the Ray cluster at {address}")
    return True


def start_cluster() -> None:
    """Start a cluster that ends with this process. WorkerError."""
    _init("local", "cannot start a Ray cluster")


def running_cluster(prefer: str = "") -> str:
    """The address of a cluster that runs on this machine, `prefer` first; empty where none does."""
    found = {prefer} if prefer else set()
    with suppress(ConnectionError):
        found.add(services.canonicalize_bootstrap_address("auto") or "")
    found |= services.find_gcs_addresses()
    # What Ray remembers of a cluster that has died would be tried for two minutes.
    running = next((a for a in sorted(found, key=lambda a: a != prefer) if answers(a)), "")
    if running:  # as Ray itself does for a cluster that it finds
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return running


def answers(address: str) -> bool:
    """Whether somebody listens at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def _init(address: str, otherwise: str) -> None:
    dashboard = False if address == "local" else None
    try:
        ray.init(address, include_dashboard=dashboard, **_QUIET)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise WorkerError(f"{otherwise}: {error}") from error


def own_actor() -> tuple[str, str]:
    """The id of the actor that this process is, and its cluster's address; empty without Ray."""
    if not ray.is_initialized():
        return "", ""
    context = ray.get_runtime_context()
    return context.get_actor_id() or "", context.gcs_address


def session() -> str:
    """The node that this process has joined a cluster by; empty where it is in none, or it died."""
    if not ray.is_initialized():
        return ""
    try:
        lifeline().check()
    except ClusterLostError:
        return ""
    return str(ray.get_runtime_context().get_node_id())


def check_token() -> None:
    """RequestError where this process's Ray serves whoever reaches it.

    It listens at the machine's own address, and would run anything for them, whatever keys the
    farm has.
    """
    if not is_token_auth_enabled():
        raise RequestError(
            "Ray asks for no token, and runs anything for whoever reaches its ports: start it, and "
            "what joins it, with RAY_AUTH_MODE=token (`ray get-auth-token --generate` makes a "
            "token; every node must have it)"
        )


def live_nodes() -> list[Node]:
    """The nodes that are there now, with what they have in all."""
    nodes = [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [Node(i, int(has.get("GPU", 0)), float(has.get("CPU", 0))) for i, has in nodes]


class Models:
    """What is known of models: asked once, then known; and asked again behind the answer.

    To look at one is a process that loads torch, and reads all of the weights. What a model has no
    weights for is refused without, and each tenant has one look at a time: nobody waits for what
    another invents.
    """

    def __init__(self, background: Background, load_s: float) -> None:
        """load_s: for a process to look at a model."""
        self._background, self._load_s = background, load_s
        self._known: dict[Model, asyncio.Task[ModelFacts]] = {}
        self._asked_at: dict[Model, float] = {}
        self._refused = Recent[Model, tuple[float, str]](REFUSED_KEPT)  # until when, and why
        self._lists = Background(LOOKS)  # a hub that hangs is to keep nothing else waiting
        self._variants = Recent[str, tuple[float, asyncio.Task[Variants]]](REFUSED_KEPT)
        self._at_once = asyncio.Semaphore(LOOKS)
        self._of_tenants = WeakValueDictionary[str, asyncio.Semaphore]()

    async def facts(self, model: Model, tenant: str = "") -> ModelFacts:
        """A model's digest and defaults; RequestError where there is no such model."""
        model = model.model_copy(update={"dtype": "float32"})  # facts are of all types
        known = self._told(model)
        if known is None:
            self._check_refused(model)
            await self._check_variant(model)
            # Another may have asked meanwhile: one process looks, however many ask.
            known = self._known[model] = self._told(model) or self._ask(model, tenant)
        elif time.monotonic() - self._asked_at.get(model, 0.0) > FACTS_S:
            again = self._ask(model, tenant)
            again.add_done_callback(lambda told: self._known.update({model: told}))
        try:
            return await asyncio.shield(known)
        except FarmError as error:  # many names of no model are not to be kept
            self._known.pop(model, None)
            self._asked_at.pop(model, None)
            if isinstance(error, RequestError):
                self._refused[model] = time.monotonic() + REFUSED_S, str(error)
            raise

    def _told(self, model: Model) -> "asyncio.Task[ModelFacts] | None":
        """What was told of it, or will be."""
        known = self._known.get(model)
        failed = known is not None and known.done() and (known.cancelled() or known.exception())
        return None if failed else known

    def _check_refused(self, model: Model) -> None:
        """RequestError for what was asked for just now, and is not there."""
        until, why = self._refused.get(model, (0.0, ""))
        if time.monotonic() < until:
            raise RequestError(why)

    async def _check_variant(self, model: Model) -> None:
        """RequestError for a variant that a list of the model's files says it has not."""
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
        return self._background.start(self._look(model, tenant), handled=(Exception,))

    async def _look(self, model: Model, tenant: str) -> ModelFacts:
        mine = self._of_tenants.setdefault(tenant, asyncio.Semaphore(1))
        async with mine, self._at_once:
            return await describe_model(model, self._load_s)


async def describe_model(model: Model, limit_s: float) -> ModelFacts:
    """Ask a process of the cluster for a model's digest and defaults; RequestError if none."""
    look = ray.remote(num_cpus=0, max_calls=1)(_describe).remote(model)
    try:
        async with asyncio.timeout(limit_s):
            facts: ModelFacts = await look
    except TimeoutError as error:
        ray.cancel(look, force=True)
        raise WorkerError(f"{model.name} could not be read within {limit_s:g} s") from error
    except RayTaskError as error:
        cause: Any = error.cause
        own = isinstance(cause, (ValueError, FileNotFoundError))
        raise RequestError(str(cause) if own else f"{type(cause).__name__}: {cause}") from error
    except RayError as error:
        raise WorkerError(
            f"no process to look at the model: {without_places(last_line(error))}"
        ) from error
    return facts


def _describe(model: Model) -> ModelFacts:
    free_torch_threads()
    from farm.workers.engines import describe

    return describe(model)
