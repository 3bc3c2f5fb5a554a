"""The spans of jobs: each from its submit to its end, over all coordinators between them."""

from farm.model.job import JobRecord, State
from farm.tracing import Span, Tracer, parse_traceparent, span_of_job


def export_job(tracer: Tracer, job: JobRecord) -> None:
    """Export the span of a job that has ended."""
    if not tracer.on or job.finished_at is None:
        return
    parent = parse_traceparent(job.traceparent)
    attributes = {
        "job": job.id,
        "tenant": job.tenant,
        "request_id": job.request_id or "",
        "model": job.model.name,
        "state": job.state.value,
        "attempts": job.attempts,
        "gpu_seconds": job.gpu_seconds,
    }
    tracer.export(
        Span(
            "job",
            span_of_job(job.id, parent),
            parent,
            job.created_at,
            job.finished_at,
            attributes=attributes,
            error="failed" if job.state is State.FAILED else "",
        )
    )
