"""Who calls the farm: passed on with each call, from the process of the caller to the coordinator.

The caller of the call under way is kept in a context variable, so it needs no parameter anywhere.
"""

import getpass
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Door = Literal["http", "python", "batch", "command"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_NOT_A_NAME = re.compile(r"[^\w.:@-]", re.ASCII)
_NAME = 80  # characters of a user's or a client's name


@dataclass(frozen=True)
class Caller:
    """Who makes a call, by which door, and the id of the request that led to it."""

    door: Door
    request_id: str
    client: str = ""  # over HTTP the client's address, otherwise user@host
    tenant: str = ""  # over HTTP the key's
    key: str = ""  # the first characters of the key's sha256; never the key
    traceparent: str = ""  # the span that the call belongs to, as W3C's header has it


_caller: ContextVar[Caller | None] = ContextVar("farm_caller", default=None)


def current_caller() -> Caller | None:
    """The caller of the call under way; None if this is the farm's own work."""
    return _caller.get()


@contextmanager
def called_by(caller: Caller | None) -> Iterator[None]:
    """Let the calls within the context, and the tasks that they start, be this caller's."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def set_caller(caller: Caller) -> None:
    """Say more about the caller of the call under way, within `called_by`."""
    _caller.set(caller)


def this_caller(door: Door) -> Caller:
    """The process itself as a caller, with a new request id."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return Caller(door, new_request_id(), name_of(f"{user}@{socket.gethostname()}"))


def new_request_id() -> str:
    """An id for a request that came without one."""
    return uuid.uuid4().hex


def is_request_id(text: str) -> bool:
    """Whether an id that a client sent is taken over: others could fill or forge logs."""
    return _REQUEST_ID.fullmatch(text) is not None


def name_of(text: str) -> str:
    """A name or an address as it is logged: short, of letters, digits, and a few marks."""
    return _NOT_A_NAME.sub("_", text)[:_NAME]
