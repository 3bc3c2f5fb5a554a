"""What tenants have used, by day, in jobs that have ended. Pure."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date

from farm.clock import utc_day
from farm.model.job import JobRecord, State

FIRST_DAY = date(1970, 1, 1)
LAST_S = 253_402_300_800.0  # the end of the year 9999


@dataclass
class Usage:
    """The jobs of a tenant that ended on a day, and what they took."""

    jobs: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    clips_rendered: int = 0  # for these jobs
    clips_reused: int = 0  # that another job had paid for
    gpu_seconds: float = 0.0

    def count(self, job: JobRecord) -> None:
        """Add a job that has ended."""
        self.jobs += 1
        self.completed += job.state is State.COMPLETED
        self.failed += job.state is State.FAILED
        self.cancelled += job.state is State.CANCELLED
        rendered = sum(result.paid_for for result in job.results)
        self.clips_rendered += rendered
        self.clips_reused += len(job.results) - rendered
        self.gpu_seconds += job.gpu_seconds

    def add(self, other: "Usage") -> None:
        """Add the usage of other jobs."""
        for name, amount in asdict(other).items():
            setattr(self, name, getattr(self, name) + amount)


ByDay = dict[tuple[date, str], Usage]  # by day and tenant


def end_ms(job: JobRecord) -> int:
    """When a job ended, in milliseconds since 1970; a time that no calendar has counts as 1970.

    Records that earlier versions repaired may lack the time: they count from when they were made.
    """
    at = job.created_at if job.finished_at is None else job.finished_at
    return int(at * 1000) if 0 <= at < LAST_S else 0


def day_of(job: JobRecord) -> date:
    """The day, in UTC, on which a job ended."""
    return utc_day(end_ms(job) // 1000)


def rows(usage: ByDay) -> Iterator[dict[str, object]]:
    """A row of a table for each day and tenant, in this order."""
    for (day, tenant), used in sorted(usage.items()):
        numbers = asdict(used) | {"gpu_seconds": round(used.gpu_seconds, 3)}
        yield {"day": day.isoformat(), "tenant": tenant, **numbers}


COLUMNS = ("day", "tenant", *asdict(Usage()))
