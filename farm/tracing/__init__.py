"""Traces: what a request led to in which process, and how long each part took."""

from farm.tracing.span import Span, SpanContext, child_of, parse_traceparent, span_of_job
from farm.tracing.tracer import UNTRACED, Tracer, open_tracer

__all__ = [
    "UNTRACED",
    "Span",
    "SpanContext",
    "Tracer",
    "child_of",
    "open_tracer",
    "parse_traceparent",
    "span_of_job",
]
