"""The services that a coordinator needs, on Ray."""

from collections.abc import Callable
from functools import cached_property

from farm.background import Background, end_process
from farm.metrics.ray_meter import RayMeter
from farm.settings import Settings, traces_endpoint
from farm.store import KnownStore
from farm.tracing import Tracer, open_tracer
from farm.workers.cluster import Models, own_actor
from farm.workers.lifeline import lifeline
from farm.workers.pool import RayPool
from farm.workers.protocol import WorkerReport


class RayRuntime:
    """Implements `Runtime` in a Ray actor."""

    def __init__(self, engine: str) -> None:
        """engine: the module whose `Worker` runs tasks."""
        self._engine = engine

    def owner(self) -> tuple[str, str]:
        """The id of this actor, and its cluster's address; empty without Ray."""
        return own_actor()

    def watch_node(self) -> None:
        """From now on, end this process when its node is dead. Blocks briefly."""
        lifeline(end_process)

    def end_process(self, why: str) -> None:
        """End this process; Ray restarts its actor."""
        end_process(why)

    def meter(self) -> RayMeter:
        """Ray's exporter of this node."""
        return RayMeter()

    def tracer(self) -> Tracer:
        """The exporter of this process, if OpenTelemetry's variables name a collector."""
        return self._tracer

    @cached_property
    def _tracer(self) -> Tracer:
        return open_tracer("svd-farm-coordinator", traces_endpoint())

    def models(self, background: Background, load_s: float) -> Models:
        """A cache of models, which processes of the cluster read."""
        return Models(background, load_s)

    def workers(
        self,
        store: KnownStore,
        background: Background,
        report: Callable[[WorkerReport], None],
        settings: Settings,
    ) -> RayPool:
        """A pool of workers, each an actor of the cluster."""
        own = settings.compile, settings.load_s, settings.log_format
        return RayPool(store, background, report, self._engine, *own)
