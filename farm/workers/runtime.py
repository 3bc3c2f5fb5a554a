"""The services that a coordinator needs from its surroundings: Ray, or one process in tests."""

from collections.abc import Callable
from typing import Protocol

from farm.background import Background
from farm.metrics.meter import Meter
from farm.model.request import Model, ModelFacts
from farm.settings import Settings
from farm.store import KnownStore
from farm.tracing import Tracer
from farm.workers.protocol import WorkerReport, Workers


class ModelFinder(Protocol):
    """Finds models by their names."""

    async def facts(self, model: Model, tenant: str = "") -> ModelFacts:
        """A model's digest and defaults. Raises RequestError if there is no such model."""


class Runtime(Protocol):
    """The seam between a coordinator and what it runs on."""

    def owner(self) -> tuple[str, str]:
        """An id that this process keeps over restarts, and its cluster's address; empty if none."""

    def watch_node(self) -> None:
        """From now on, end this process when its machine leaves the cluster. Blocks briefly."""

    def end_process(self, why: str) -> None:
        """End this process; another one continues from the store."""

    def meter(self) -> Meter:
        """Where this process reports its metrics."""

    def tracer(self) -> Tracer:
        """Where this process exports its spans; the same one each time."""

    def models(self, background: Background, load_s: float) -> ModelFinder:
        """A finder of models. load_s: the time limit for reading one."""

    def workers(
        self,
        store: KnownStore,
        background: Background,
        report: Callable[[WorkerReport], None],
        settings: Settings,
    ) -> Workers:
        """The workers; none is started yet."""
