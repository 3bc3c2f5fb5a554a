"""Ray: join or start a cluster, look at its nodes, ask it about a model."""

import asyncio
import logging
import socket
import time
from contextlib import suppress
from typing import Any

import ray
from ray._private import services
from ray.exceptions import RayError, RayTaskError

from farm.errors import ClusterLostError, FarmError, RequestError, WorkerError
from farm.lifeline import lifeline
from farm.loop import Background
from farm.placement import Node
from farm.pool import free_torch_threads, last_line
from farm.request import Model, ModelFacts
from farm.settings import ray_address

FACTS_S = 300.0  # a model may be changed under the farm
ANSWER_S = 2.0  # for a cluster of this machine to answer
LOOKS = 2  # at models at once: each is a process that loads torch

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
    address = ray_address() or running_cluster(prefer)
    if not address or address == "local":
        return False
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
    return next((a for a in sorted(found, key=lambda a: a != prefer) if _answers(a)), "")


def _answers(address: str) -> bool:
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


def live_nodes() -> list[Node]:
    """The nodes that are there now, with what they have in all."""
    nodes = [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [Node(i, int(has.get("GPU", 0)), float(has.get("CPU", 0))) for i, has in nodes]


class Models:
    """What is known of models: asked once, then known; and asked again behind the answer."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._known: dict[Model, asyncio.Task[ModelFacts]] = {}
        self._asked_at: dict[Model, float] = {}
        self._at_once = asyncio.Semaphore(LOOKS)

    async def facts(self, model: Model) -> ModelFacts:
        """A model's digest and defaults; RequestError where there is no such model."""
        known = self._known.get(model)
        if known is None or (known.done() and known.exception() is not None):
            # One process looks, however many ask: it loads torch, and reads all of the weights.
            known = self._known[model] = self._ask(model)
        elif time.monotonic() - self._asked_at.get(model, 0.0) > FACTS_S:
            self._ask(model).add_done_callback(lambda told: self._known.update({model: told}))
        try:
            return await asyncio.shield(known)
        except FarmError:  # many names of no model are not to be kept
            self._known.pop(model, None)
            self._asked_at.pop(model, None)
            raise

    def _ask(self, model: Model) -> "asyncio.Task[ModelFacts]":
        self._asked_at[model] = time.monotonic()
        return self._background.start(self._look(model))

    async def _look(self, model: Model) -> ModelFacts:
        async with self._at_once:
            return await describe_model(model)


async def describe_model(model: Model) -> ModelFacts:
    """Ask a process of the cluster for a model's digest and defaults; RequestError if none."""
    try:
        facts: ModelFacts = await ray.remote(num_cpus=0, max_calls=1)(_describe).remote(model)
    except RayTaskError as error:
        cause: Any = error.cause
        own = isinstance(cause, (ValueError, FileNotFoundError))
        raise RequestError(str(cause) if own else f"{type(cause).__name__}: {cause}") from error
    except RayError as error:
        raise WorkerError(f"no process to look at the model: {last_line(error)}") from error
    return facts


def _describe(model: Model) -> ModelFacts:
    free_torch_threads()
    from farm.engines import describe

    return describe(model)
