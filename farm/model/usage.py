"""What tenants have used, by day, from the records of jobs that have ended. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime

from farm.model.job import JobRecord, State

FIRST_DAY = date(1970, 1, 1)


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


def usage_by_day(
    jobs: Iterable[JobRecord], since: date = FIRST_DAY
) -> dict[tuple[date, str], Usage]:
    """The usage by day and tenant, in this order. Days are those of UTC on which jobs ended.

    since: the first day. Jobs that are open are left out, since it is not settled what they take.
    """
    found: dict[tuple[date, str], Usage] = {}
    for job in jobs:
        if job.finished_at is not None:
            day = datetime.fromtimestamp(job.finished_at, UTC).date()
            if day >= since:
                found.setdefault((day, job.tenant), Usage()).count(job)
    return dict(sorted(found.items()))


def rows(usage: dict[tuple[date, str], Usage]) -> Iterator[dict[str, object]]:
    """A row of a table for each day and tenant."""
    for (day, tenant), used in usage.items():
        numbers = asdict(used) | {"gpu_seconds": round(used.gpu_seconds, 3)}
        yield {"day": day.isoformat(), "tenant": tenant, **numbers}


COLUMNS = ("day", "tenant", *asdict(Usage()))
