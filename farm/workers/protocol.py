"""The interface between the coordinator and its workers, on Ray or in process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from farm.model.plan import Kind
from farm.model.task_order import Order, Ref, Step
from farm.scheduling.placement import Node, Slot


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker is up, and idle. memory: the bytes of its GPU that it may use."""

    name: str
    kind: Kind
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerLeft:
    """A worker has died, or did not come up."""

    name: str
    why: str


WorkerReport = WorkerJoined | WorkerLeft


class Workers(Protocol):
    """A worker in each slot, restarted when it dies. Workers that come and go are reported."""

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Where each worker runs, by name."""

    @property
    def places(self) -> Mapping[str, str]:
        """The address and process id (`address:pid`) of each worker that is up."""

    @property
    def troubles(self) -> Mapping[str, str]:
        """The reasons why other workers are not up, by name."""

    async def nodes(self) -> list[Node]:
        """The machines on which workers can run."""

    async def ask_for(self, resources: Mapping[str, float], count: int) -> None:
        """Ask for nodes that have these resources, `count` times in all; 0 asks for none."""

    def keep(self, slots: Sequence[Slot]) -> list[str]:
        """Start the workers that are missing; returns those that have no slot any more."""

    def retire(self, name: str) -> None:
        """End a worker for good."""

    def restart(self, name: str) -> None:
        """End a worker's process; another is started."""

    async def run(
        self,
        name: str,
        order: Order,
        inputs: Sequence[Ref | None],
        on_step: Callable[[Step], None],
    ) -> tuple[Ref, float]:
        """Run a task to its end; its result, and the seconds that it took. Raises TaskError."""

    async def rendezvous(self, name: str) -> str:
        """An address (host:port) for a rendezvous of the workers that share a task with this one.

        Raises TaskError.
        """

    def stop(self, name: str, attempt: str) -> None:
        """Ask a worker to end an attempt at its next step."""

    def hand_over(self, name: str, attempt: str) -> None:
        """Ask a worker to save a checkpoint of an attempt at its next step, and end it.

        Only denoising does so, and its end counts as STALE. Other tasks run to their end.
        """
