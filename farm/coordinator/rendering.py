"""The parts of a coordinator that render clips."""

from dataclasses import dataclass

from farm.coordinator.clips import Clip
from farm.coordinator.dispatcher import Dispatcher
from farm.coordinator.work_history import WorkHistory
from farm.scheduling.scheduler import Scheduler
from farm.workers.protocol import Workers


@dataclass(frozen=True)
class Rendering:
    """The scheduler, the workers, and what connects them."""

    scheduler: Scheduler[Clip]
    workers: Workers
    dispatcher: Dispatcher
    history: WorkHistory
