"""Turns log records into lines: one line for each, whatever is in its message."""

import json
import logging
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from farm.logs.fields import fields_now
from farm.masking import Masking

LogFormat = Literal["console", "json"]

CLIP = 12  # digits of a clip's digest that people are shown
LONGEST = 20_000  # characters of a message, and of an exception
FIELDS = 4096  # values of fields that are remembered, since each is on many lines
FRAMES = 6  # of an exception that people are shown, the last ones


class OneLine(logging.Formatter):
    """Formats records in a log format, with their fields, and without secrets."""

    def __init__(
        self,
        log_format: LogFormat,
        head: str,
        secrets: Iterable[str] = (),
        always: Mapping[str, str] | None = None,
    ) -> None:
        """head: how a line for people begins, in logging's %-style.

        secrets: values that are hidden wherever they appear. always: fields of every line.
        """
        super().__init__(f"{head}%(message)s")
        self._json, self._always = log_format == "json", always or {}
        self._masking = Masking(secrets)
        self._field = lru_cache(FIELDS)(self._clean)

    def format(self, record: logging.LogRecord) -> str:
        """The line. It is written by the thread that logs, so the fields are those of its work."""
        fields = {**self._always, **fields_now()}
        return self._as_json(record, fields) if self._json else self._for_people(record, fields)

    def _as_json(self, record: logging.LogRecord, fields: Mapping[str, Any]) -> str:
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": self._clean(record.getMessage()),
            **{name: self._field(v) if isinstance(v, str) else v for name, v in fields.items()},
        }
        if record.exc_info and record.exc_info[1]:
            text = "".join(traceback.format_exception(record.exc_info[1]))
            line["exception"] = self._clean(text)
        return json.dumps(line)  # in ASCII: JSON escapes what could end a line

    def _for_people(self, record: logging.LogRecord, fields: Mapping[str, Any]) -> str:
        record.message = self._clean(record.getMessage())
        if self.usesTime():
            record.asctime = self.formatTime(record)
        line = self.formatMessage(record)
        if record.exc_info and record.exc_info[1]:
            line += f": {self._clean(in_short(record.exc_info[1]))}"
        shown = (f"{name}={_shown(name, self._field(str(v)))}" for name, v in fields.items())
        end = " ".join(shown)
        return printable(f"{line}  [{end}]" if end else line)

    def _clean(self, text: str) -> str:
        return self._masking.text(text[:LONGEST])


def rfc3339(seconds: float) -> str:
    """A time in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def printable(text: str) -> str:
    """The text on one line, with what does not print escaped: a name may try to forge a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_short(error: BaseException, causes: int = 5) -> str:
    """An exception on one line: what it says, where it was raised, and what caused it.

    causes: how many at most, since an error may be its own cause.
    """
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = " < ".join(f"{f.filename}:{f.lineno} in {f.name}" for f in reversed(frames))
    text = f"{type(error).__name__}: {error}" + (f" ({places})" if places else "")
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is None or not causes:
        return text
    return f"{text}; after {in_short(cause, causes - 1)}"


def _shown(name: str, value: str) -> str:
    return value[:CLIP] if name == "clip" else value
