"""What a check is: a function that yields findings, each with a status, a text and advice."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from farm.settings import Settings


class Status(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"  # the farm works, but not as well as it could, or not for all requests
    FAILED = "failed"  # the farm does not work
    UNKNOWN = "not checked"


@dataclass(frozen=True)
class Finding:
    """What a check found. The text and the advice are whole sentences."""

    status: Status
    text: str
    advice: str = ""  # what to do; empty if there is nothing to do


class Unchecked(Exception):  # noqa: N818 - it is no error
    """Raised by a check that cannot be made; the message says why, in a whole sentence."""


@dataclass(frozen=True)
class Context:
    """What the checks work on."""

    settings: Settings | None  # None if they are wrong
    fault: str = ""  # what is wrong with them
    store: str | None = None  # of the command's option --store

    def need_settings(self) -> Settings:
        """The settings. Raises Unchecked if they are wrong."""
        if self.settings is None:
            raise Unchecked("The settings are wrong, so this was not checked.")
        return self.settings


Findings = Iterator[Finding]


class Check(NamedTuple):
    """A check, and how long it may take. Its name is the function's."""

    run: Callable[[Context], Findings]
    limit_s: float = 20.0

    @property
    def name(self) -> str:
        """The name that is shown."""
        return self.run.__name__.replace("_", " ")


def ok(text: str) -> Finding:
    """Nothing to do."""
    return Finding(Status.OK, text)


def warning(text: str, advice: str) -> Finding:
    """The farm works, but not as well as it could, or not for all requests."""
    return Finding(Status.WARNING, text, advice)


def failed(text: str, advice: str) -> Finding:
    """The farm does not work."""
    return Finding(Status.FAILED, text, advice)


def unknown(text: str, advice: str = "") -> Finding:
    """It was not checked; the text says why."""
    return Finding(Status.UNKNOWN, text, advice)
