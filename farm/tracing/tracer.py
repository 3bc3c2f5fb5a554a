"""The seam through which spans are exported."""

import logging
from typing import Protocol

from farm.tracing.span import Span

log = logging.getLogger("farm")

EXTRA = "pip install 'svd-render-farm[tracing]'"


class Tracer(Protocol):
    """Takes spans that have ended. It never raises, and never waits."""

    @property
    def on(self) -> bool:
        """Whether spans are exported: otherwise none need to be made."""

    def export(self, span: Span) -> None:
        """Export a span, unless whoever began its trace does not want it."""


class Untraced:
    """Exports nothing."""

    on = False

    def export(self, span: Span) -> None:
        """Implement `Tracer`."""


UNTRACED = Untraced()


def open_tracer(service: str, endpoint: str) -> Tracer:
    """What exports the spans of this process; to nowhere if there is no endpoint.

    service: the process's name in traces. endpoint: whether there is one; OpenTelemetry's exporter
    itself reads it, and all that belongs to it, from its own variables.
    """
    if not endpoint:
        return UNTRACED
    try:
        from farm.tracing.otel import OtelTracer
    except ImportError as error:
        log.warning("no traces are exported, as a package is missing (%s): %s", error, EXTRA)
        return UNTRACED
    return OtelTracer(service)
