"""The queue of waiting jobs, from which a job's position and wait are read. Pure."""

from sortedcontainers import SortedList


class JobQueue:
    """Jobs sorted by rank, and within a rank by id, which sorts by age."""

    def __init__(self) -> None:
        self._ranks: dict[str, float] = {}
        self._sorted: SortedList[tuple[float, str]] = SortedList()

    def put(self, job: str, rank: float) -> None:
        """Add a job, or change its rank."""
        self.remove(job)
        self._ranks[job] = rank
        self._sorted.add((rank, job))

    def remove(self, job: str) -> None:
        """Remove a job, if it is in the queue."""
        rank = self._ranks.pop(job, None)
        if rank is not None:
            self._sorted.remove((rank, job))

    def position(self, job: str) -> int:
        """How many jobs are before this one, which must be in the queue."""
        return self._sorted.bisect_left((self._ranks[job], job))

    def sample_before(self, job: str, most: int) -> list[str]:
        """At most `most` of the jobs before this one, evenly spread."""
        count = self.position(job)
        every = max(1, -(-count // most))
        return [name for _, name in self._sorted[:count:every]]
