"""Ids of spans, and the header that carries them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.tracing import SpanContext, child_of, parse_traceparent, span_of_job

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_header_is_read_and_written() -> None:
    header = f"00-{TRACE}-{SPAN}-01"
    assert parse_traceparent(header) == SpanContext(TRACE, SPAN)
    assert SpanContext(TRACE, SPAN).traceparent == header
    unwanted = parse_traceparent(f"00-{TRACE}-{SPAN}-00")
    assert unwanted is not None
    assert not unwanted.sampled
    assert unwanted.traceparent.endswith("-00")
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-09-of-a-later-version") == SpanContext(TRACE, SPAN)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_other_headers_are_none(header: str | None) -> None:
    assert parse_traceparent(header) is None


@given(text=st.text())
def test_any_text_may_come(text: str) -> None:
    parse_traceparent(text)


@given(job=st.text(), sampled=st.booleans())
def test_a_jobs_span_follows_from_its_id(job: str, sampled: bool) -> None:
    parent = SpanContext(TRACE, SPAN, sampled)
    span = span_of_job(job, parent)
    assert (span.trace, span.sampled) == (TRACE, sampled)
    assert span == span_of_job(job, parent)
    assert parse_traceparent(span.traceparent) == span
    assert span_of_job(job, None).span == span.span
    assert child_of(span).trace == TRACE
    assert child_of(None).trace != child_of(None).trace
