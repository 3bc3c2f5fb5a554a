"""Exports spans by OpenTelemetry's protocol (OTLP) over HTTP, from a thread in the background."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext as OtelContext
from opentelemetry.trace import SpanKind, Status, StatusCode, TraceFlags

from farm.tracing.span import Span, SpanContext

KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}
SCOPE = InstrumentationScope("farm")


class OtelTracer:
    """Implements `Tracer`. While the collector is away, spans queue up, and the rest are dropped.

    Spans end in other processes than they begin in, so they are made here as a whole and not with
    OpenTelemetry's own API for code under way.
    """

    on = True

    def __init__(self, service: str) -> None:
        """service: the name of this process; OTEL_SERVICE_NAME comes before it."""
        own = Resource({"service.name": service})
        self._resource = own.merge(OTELResourceDetector().detect())
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def export(self, span: Span) -> None:
        """Implement `Tracer`."""
        self._processor.on_end(
            ReadableSpan(
                span.name,
                context=_context(span.context),
                parent=None if span.parent is None else _context(span.parent),
                resource=self._resource,
                attributes=dict(span.attributes),
                kind=KINDS[span.kind],
                status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
                start_time=round(span.began * 1e9),
                end_time=round(max(span.began, span.ended) * 1e9),
                instrumentation_scope=SCOPE,
            )
        )


def _context(context: SpanContext) -> OtelContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return OtelContext(int(context.trace, 16), int(context.span, 16), False, flags)
