"""Spans, and how processes tell each other which span their work belongs to. Pure.

The header `traceparent` is that of https://www.w3.org/TR/trace-context/.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1  # the bit of the flags


@dataclass(frozen=True)
class SpanContext:
    """The ids of a span, and whether whoever began the trace wants it to be kept."""

    trace: str  # 32 hexadecimal digits
    span: str  # 16 hexadecimal digits
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The header that names this span as the parent of others."""
        return f"00-{self.trace}-{self.span}-{int(self.sampled):02x}"


@dataclass(frozen=True)
class Span:
    """A piece of work that has ended. Times are in seconds since 1970."""

    name: str
    context: SpanContext
    parent: SpanContext | None
    began: float
    ended: float
    kind: Literal["server", "internal"] = "internal"
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    error: str = ""  # what went wrong, without secrets; empty if nothing did


def parse_traceparent(text: str | None) -> SpanContext | None:
    """The span that a header names; None for a header that is missing or not valid."""
    found = _HEADER.fullmatch(text or "")
    if found is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace, 16) or not int(span, 16):
        return None
    return SpanContext(trace, span, bool(int(flags, 16) & _SAMPLED))


def child_of(parent: SpanContext | None) -> SpanContext:
    """A new span below a parent; without one, of a new trace."""
    if parent is None:
        return SpanContext(secrets.token_hex(16), secrets.token_hex(8))
    return SpanContext(parent.trace, secrets.token_hex(8), parent.sampled)


def span_of_job(job: str, parent: SpanContext | None) -> SpanContext:
    """A job's span, whose ids follow from the job's own.

    So every process knows it, and a coordinator that was restarted goes on with it.
    """
    digest = hashlib.sha256(job.encode(errors="replace")).hexdigest()
    trace, span = digest[:32], digest[32:48]
    if parent is None:
        return SpanContext(trace, span)
    return SpanContext(parent.trace, span, parent.sampled)
