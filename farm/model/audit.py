"""The audit log: who changed what, when, and what came of it. Pure."""

import json
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any, Literal

from pydantic import Field, ValidationError

from farm.clock import utc_day
from farm.store.records import SCHEMA, Record

LONGEST = 200  # characters of a text that a caller chose

Outcome = Literal["done", "refused", "failed", "unanswered"]


class AuditEntry(Record):
    """A call that changed something, or was to."""

    at: float  # when it was answered, in seconds since 1970
    action: str  # the method of FarmApi: submit, cancel, ...
    target: str = ""  # the job, or the worker
    arguments: dict[str, bool | int] = Field(default_factory=dict)  # the others
    # `refused`: not allowed or not possible. `failed`: by the farm's fault; it may still be carried
    # out. `unanswered`: the caller left before the answer.
    outcome: Outcome
    why: str = ""  # of a call that was not done
    tenant: str = ""  # the key's over HTTP, otherwise the job's
    door: str = ""  # http, python, batch or command
    client: str = ""  # over HTTP its address, otherwise user@host
    key: str = ""  # the first characters of the key's sha256
    request_id: str = ""

    @property
    def day(self) -> date:
        """The day on which it was answered, in UTC."""
        return utc_day(self.at)


def short(text: str) -> str:
    """A text of a caller's as it is kept: of limited length, and without lone surrogates."""
    return text[:LONGEST].encode(errors="backslashreplace").decode()


def to_lines(entries: Iterable[AuditEntry]) -> bytes:
    """Entries as lines of JSON in ASCII, which no text in them can break."""
    return "".join(f"{json.dumps(as_json(entry))}\n" for entry in entries).encode()


def as_json(entry: AuditEntry) -> dict[str, Any]:
    """An entry as JSON has it, without what says nothing."""
    return entry.model_dump(exclude_defaults=True)


def from_lines(data: bytes) -> Iterator[AuditEntry | None]:
    """The entries of lines; None for each that cannot be read."""
    for line in data.split(b"\n"):
        if line:
            try:
                entry = AuditEntry.model_validate_json(line)
            except ValidationError:
                entry = None
            yield entry if entry is not None and entry.schema_version <= SCHEMA else None
