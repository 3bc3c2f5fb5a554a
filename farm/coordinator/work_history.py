"""What each worker did in the last ten minutes, for people who look at the farm."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from farm.clock import Clock
from farm.model.plan import Stage

KEPT_S = 600.0
MOST = 600  # stretches of a worker
GAP_S = 1.0  # shorter pauses between tasks of the same stage are not shown


@dataclass(slots=True)
class _Stretch:
    stage: Stage
    began: float  # by the monotonic clock
    ended: float | None = None  # None while it lasts


class WorkHistory:
    """Stretches of time in which a worker was busy with one stage, by worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of: dict[str, deque[_Stretch]] = {}

    def begin(self, workers: Iterable[str], stage: Stage) -> None:
        """Note that workers begin a task."""
        now = self._clock.monotonic()
        for worker in workers:
            mine = self._of.setdefault(worker, deque(maxlen=MOST))
            last = mine[-1] if mine else None
            if last and last.stage is stage and (last.ended is None or now - last.ended < GAP_S):
                last.ended = None
            else:
                mine.append(_Stretch(stage, now))

    def end(self, workers: Iterable[str]) -> None:
        """Note that workers end their task."""
        for worker in workers:
            mine = self._of.get(worker)
            if mine:
                mine[-1].ended = self._clock.monotonic()

    def of(self, worker: str) -> list[tuple[Stage, float, float]]:
        """Stage, and how many seconds ago it began and ended (0 while it lasts), oldest first."""
        now, mine = self._clock.monotonic(), self._of.get(worker, deque())
        while mine and (mine[0].ended or now) < now - KEPT_S:
            mine.popleft()
        return [
            (each.stage, round(now - each.began, 1), round(now - (each.ended or now), 1))
            for each in mine
        ]

    def keep(self, workers: Iterable[str]) -> None:
        """Forget all other workers."""
        for gone in self._of.keys() - set(workers):
            del self._of[gone]
