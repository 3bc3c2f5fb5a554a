"""A clip being rendered, and who is told of it."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from farm.model.job import ClipResult
from farm.model.plan import Stage
from farm.model.request import Model, RenderRequest
from farm.model.task_order import Made
from farm.scheduling.state import Run


@dataclass(eq=False)
class Clip:
    """A clip being rendered: what is known of it, and the results of its tasks so far."""

    request: RenderRequest
    model: Model
    run: Run
    label: str  # the job's id, in the log
    force: bool = False
    recovered: bool = False  # begun by an earlier coordinator
    stage: Stage | None = None
    step: int = 0
    previewed: int = 0  # the step that the last preview told of is of
    chunks: int = 0  # decoded
    furthest: tuple[int, int] = (0, 0)  # steps and chunks of a lost attempt: people see no less
    attempts: int = 1  # the most that any of its tasks took
    gpu_seconds: float = 0.0
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(Stage, 0.0))
    renderer: str = ""
    refs: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # results, by task
    muxes: list[str] = field(default_factory=list)  # attempts that may have stored artifacts
    committing: bool = False  # what its last task stored is about to be named, or is already
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def result(self, made: Made, fence: int) -> ClipResult:
        """What is told of it, now that it is made."""
        return ClipResult(
            request=self.request,
            **vars(made),
            seconds={stage: round(s, 4) for stage, s in self.seconds.items()},
            gpu_seconds=round(self.gpu_seconds, 4),
            attempts=self.attempts,
            worker=self.renderer,
            fence=fence,
            finished_at=time.time(),
        )


class Listener(Protocol):
    """Who is told of clips, in the dispatcher's loop."""

    def started(self, clip: Clip) -> None:
        """A worker has begun a task of it."""

    def progressed(self, clip: Clip) -> None:
        """A step or a chunk more is done."""

    def previewed(self, clip: Clip) -> None:
        """A preview more is in the store."""

    def tried_again(self, clip: Clip, why: str) -> None:
        """An attempt was lost; another will be made."""

    def finished(self, clip: Clip, result: ClipResult) -> None:
        """It is in the store."""

    def failed(self, clip: Clip, error: str) -> None:
        """It is given up."""
