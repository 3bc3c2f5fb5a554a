"""Lines of the log: one for each record, with its fields and without secrets."""

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.background import Background
from farm.caller import Caller, called_by, is_request_id, name_of, this_caller
from farm.logs import LogFormat, OneLine, bound, fields_now
from farm.logs.lines import in_short

SECRET = "correct-horse-battery"


def line(log_format: LogFormat, message: str, *arguments: Any, error: Any = None) -> str:
    kind = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("farm", logging.WARNING, "", 1, message, arguments, kind)
    record.created = 1_764_331_200.5
    return OneLine(log_format, "%(levelname)s ", [SECRET], {"worker": "renderer-0"}).format(record)


def parsed(message: str, *arguments: Any, error: Any = None) -> dict[str, Any]:
    text = line("json", message, *arguments, error=error)
    assert "\n" not in text
    return json.loads(text)


def test_json_has_what_programs_need() -> None:
    with bound(job="job-1", clip="c" * 64, status=200):
        assert parsed("%s is late", "it") == {
            "time": "2025-11-28T12:00:00.500Z",
            "level": "WARNING",
            "logger": "farm",
            "message": "it is late",
            "worker": "renderer-0",
            "job": "job-1",
            "clip": "c" * 64,
            "status": 200,
        }


def test_people_see_the_fields_at_the_end() -> None:
    with bound(job="job-1", clip="c" * 64):
        shown = line("console", "late")
    assert shown == f"WARNING late  [worker=renderer-0 job=job-1 clip={'c' * 12}]"


@pytest.mark.parametrize("log_format", ["console", "json"])
@given(text=st.text())
def test_nothing_breaks_a_line(log_format: LogFormat, text: str) -> None:
    with bound(job=text, tenant=text):
        shown = line(log_format, "%s", text, error=ValueError(text))
    assert len(shown.splitlines()) == 1
    assert "\x1b" not in shown


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_secrets_are_hidden_in_messages_fields_and_exceptions(log_format: LogFormat) -> None:
    with bound(job=SECRET):
        shown = line(log_format, "with %s", SECRET, error=ValueError(f"at {SECRET}"))
    assert SECRET not in shown
    assert shown.count("***") >= 3
    assert "hunter2" not in line(log_format, "s3://me:hunter2@host/bucket")


def fails() -> None:
    try:
        raise OSError("disk full")
    except OSError as error:
        raise ValueError("not written") from error


def test_an_exception_is_in_full_for_programs_and_short_for_people() -> None:
    with pytest.raises(ValueError, match="not written") as caught:
        fails()
    full = parsed("it broke", error=caught.value)["exception"]
    assert full.startswith("Traceback") or "OSError: disk full" in full
    assert "raise ValueError" in full
    shown = line("console", "it broke", error=caught.value)
    assert re.search(
        r"it broke: ValueError: not written \(.*in fails.*; after OSError: disk", shown
    )


def test_fields_reach_tasks_and_threads_and_end_with_their_block() -> None:
    async def work() -> tuple[Any, Any]:
        background = Background(1)
        with called_by(Caller("http", "id-1", tenant="acme")), bound(job="a"):
            task = background.start(asyncio.sleep(0, fields_now()))
            in_thread = await background.call(fields_now)
        found = await task, in_thread
        await background.cancel_all()
        return found

    expected = {"tenant": "acme", "request_id": "id-1", "job": "a"}
    assert asyncio.run(work()) == (expected, expected)
    assert fields_now() == {}


def test_inner_fields_replace_outer_ones_unless_they_are_empty() -> None:
    with bound(job="outer", tenant="acme"), bound(job="inner", tenant="", clip=None):
        assert fields_now() == {"job": "inner", "tenant": "acme"}


@pytest.mark.parametrize("text", ["", "a b", "a\n", "é", "x" * 101, "{}", "a;b"])
def test_ids_that_are_not_taken_over(text: str) -> None:
    assert not is_request_id(text)


def test_programs_have_ids_of_their_own_and_bounded_names() -> None:
    one, other = this_caller("python"), this_caller("batch")
    assert one.request_id != other.request_id
    assert is_request_id(one.request_id)
    assert re.fullmatch(r"[\w.@-]+", one.client)
    assert name_of("::1") == "::1"
    assert name_of("a\nb" * 99) == ("a_b" * 99)[:80]


def test_an_error_that_is_its_own_cause_is_shown() -> None:
    error = ValueError("round and round")
    error.__cause__ = error
    assert in_short(error).startswith("ValueError: round and round; after ValueError")
