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

    def begin(self, workers: Iterable[str], stage: Stage) -> list[_Stretch]:
        """Note that workers begin a task; returns what `end` needs."""
        now, begun = self._clock.monotonic(), []
        for worker in workers:
            mine = self._of.setdefault(worker, deque(maxlen=MOST))
            last = mine[-1] if mine else None
            if last is None or last.stage is not stage or now - (last.ended or now) >= GAP_S:
                if last is not None and last.ended is None:
                    last.ended = now
                last = _Stretch(stage, now)
                mine.append(last)
            last.ended = None
            begun.append(last)
        return begun

    def end(self, begun: Iterable[_Stretch]) -> None:
        """Note that workers end a task that they began."""
        for stretch in begun:
            stretch.ended = stretch.ended or self._clock.monotonic()

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
