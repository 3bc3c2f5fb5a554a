"""What leads from a piece of work back to the request that asked for it. Pure."""

from dataclasses import dataclass

from farm.model.job import JobRecord


@dataclass(frozen=True)
class Trail:
    """The job that a clip or a task is rendered for, and the request by which the job came.

    If several jobs wait for a clip, the first of them.
    """

    job: str = ""
    tenant: str = ""
    request_id: str = ""
    traceparent: str = ""  # of the span below which the job is; empty if it is the first

    @property
    def fields(self) -> dict[str, str]:
        """Its fields in log lines."""
        return {"job": self.job, "tenant": self.tenant, "request_id": self.request_id}


NO_TRAIL = Trail()


def trail_of(job: JobRecord) -> Trail:
    """The trail of a job's work."""
    return Trail(job.id, job.tenant, job.request_id or "", job.traceparent or "")
