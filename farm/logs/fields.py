"""Fields of log lines, bound for a block of code in place of being passed to each call."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from farm.caller import current_caller

Value = str | int | float

_bound: ContextVar[Mapping[str, Value]] = ContextVar("farm_fields", default=MappingProxyType({}))


@contextmanager
def bound(**fields: Value | None) -> Iterator[None]:
    """Add fields to what is logged within the context, and in tasks that are started in it.

    Fields that are None or empty are left as they are.
    """
    given = {name: value for name, value in fields.items() if value not in (None, "")}
    token = _bound.set({**_bound.get(), **given})
    try:
        yield
    finally:
        _bound.reset(token)


def fields_now() -> dict[str, Value]:
    """The fields of a line that is logged now, those of the call under way included."""
    fields: dict[str, Value] = {}
    if caller := current_caller():
        fields = {"tenant": caller.tenant, "request_id": caller.request_id}
    return {name: value for name, value in {**fields, **_bound.get()}.items() if value != ""}
