"""The order of jobs that wait: how many are before one, and some of them to judge by. Pure."""

from sortedcontainers import SortedList


class Places:
    """Jobs by rank; those of the same rank by id, and so by age."""

    def __init__(self) -> None:
        self._ranks: dict[str, float] = {}
        self._sorted: SortedList[tuple[float, str]] = SortedList()

    def put(self, job: str, rank: float) -> None:
        """Give a job its place, or another one."""
        self.take(job)
        self._ranks[job] = rank
        self._sorted.add((rank, job))

    def take(self, job: str) -> None:
        """Forget a job, if it has a place."""
        rank = self._ranks.pop(job, None)
        if rank is not None:
            self._sorted.remove((rank, job))

    def before(self, job: str) -> int:
        """How many jobs are before this one, which must have a place."""
        return self._sorted.bisect_left((self._ranks[job], job))

    def sample(self, job: str, most: int) -> list[str]:
        """Jobs before this one, at most so many, evenly spread."""
        count = self.before(job)
        every = max(1, -(-count // most))
        return [name for _, name in self._sorted[:count:every]]
