"""Records: what the store keeps as JSON, and other versions of the farm may read. Pure."""

from typing import TypeVar

from pydantic import ConfigDict, ValidationError

from farm.errors import UnreadableError
from svd_engine.params import Lasting

SCHEMA = 1  # raised when an earlier version must not read what this one writes


class Record(Lasting):
    """An object of the store. Fields that this version does not know are kept, and ignored."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    schema_version: int = SCHEMA

    @property
    def own_key(self) -> str | None:
        """The key that it belongs under; None where it does not say."""
        return None


R = TypeVar("R", bound=Record)


def parse_record(kind: type[R], key: str, data: bytes) -> R:
    """The record under a key. UnreadableError: it is none, another's, or of a later schema."""
    try:
        record = kind.model_validate_json(data, extra="allow")
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise UnreadableError(f"{place}: {fault['msg']}" if place else fault["msg"]) from None
    if record.schema_version > SCHEMA:
        raise UnreadableError(
            f"it has schema {record.schema_version}, and this version reads up to {SCHEMA}"
        )
    if record.own_key not in (None, key):
        raise UnreadableError(f"it is what {record.own_key or 'another key'} should hold")
    return record
