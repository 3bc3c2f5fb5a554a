"""A collector of traces: a real HTTP server that decodes what OpenTelemetry's exporter sends."""

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_S = 30.0


@dataclass(frozen=True)
class Received:
    """A span, as a collector gets it."""

    name: str
    service: str
    trace: str
    span: str
    parent: str  # empty for the first span of a trace
    kind: int
    seconds: float
    error: str
    attributes: dict[str, Any]


@dataclass
class Collector:
    """A server, and the spans that it received."""

    url: str
    spans: list[Received] = field(default_factory=list)

    def of(self, trace: str, *names: str) -> dict[str, list[Received]]:
        """The spans of a trace by name, once there is one of each name."""
        until = time.monotonic() + WAIT_S
        while True:
            found: dict[str, list[Received]] = {}
            for span in list(self.spans):
                if span.trace == trace:
                    found.setdefault(span.name, []).append(span)
            if found.keys() >= set(names):
                return found
            assert time.monotonic() < until, f"only {sorted(found)} of {names} in {trace}"
            time.sleep(0.02)


@contextmanager
def collector(status: int = 200) -> Iterator[Collector]:
    """Run a collector on a free port. status: what it answers."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces" and status == 200:
                there.spans += _read(ExportTraceServiceRequest.FromString(body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    there = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _read(request: Any) -> Iterator[Received]:
    for resource in request.resource_spans:
        own = _plain(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    name=span.name,
                    service=own["service.name"],
                    trace=span.trace_id.hex(),
                    span=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    kind=span.kind,
                    seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    error=span.status.message,
                    attributes=_plain(span.attributes),
                )


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
