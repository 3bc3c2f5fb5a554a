"""What a coordinator stands on: Ray in a farm, one process in tests."""

from collections.abc import Callable
from typing import Protocol

from farm.background import Background
from farm.model.request import Model, ModelFacts
from farm.settings import Settings
from farm.store import Store
from farm.workers.protocol import WorkerReport, Workers


class ModelFinder(Protocol):
    """Knows models by their names."""

    async def facts(self, model: Model, tenant: str = "") -> ModelFacts:
        """A model's digest and defaults. Raises RequestError where there is no such model."""


class Runtime(Protocol):
    """The seam between a coordinator and what it runs on."""

    def owner(self) -> tuple[str, str]:
        """An id of this process that its restarts keep, and its cluster's address; or empty."""

    def watch_node(self) -> None:
        """From now on, end this process when its machine has left the cluster. Blocks a while."""

    def end_process(self, why: str) -> None:
        """End this process: another goes on from the store."""

    def models(self, background: Background, load_s: float) -> ModelFinder:
        """load_s: for a process to look at a model."""

    def workers(
        self,
        store: Store,
        background: Background,
        report: Callable[[WorkerReport], None],
        settings: Settings,
    ) -> Workers:
        """The workers, none of which is started yet."""
