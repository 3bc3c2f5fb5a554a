"""Records: JSON objects in the store that other versions of the farm may have to read. Pure."""

from typing import TypeVar

from pydantic import ConfigDict, ValidationError

from farm.errors import UnreadableError
from svd_engine.params import Lasting

SCHEMA = 1  # increase it when earlier versions must not read the records of this one


class Record(Lasting):
    """A JSON object in the store. Rewriting it keeps the fields that this version does not know."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    schema_version: int = SCHEMA

    @property
    def own_key(self) -> str | None:
        """The key that this record must be stored at; None if the record does not say."""
        return None


R = TypeVar("R", bound=Record)


def parse_record(kind: type[R], key: str, data: bytes) -> R:
    """Parse the record stored at a key.

    Raises UnreadableError if the data is no such record, belongs to another key, or has a later
    schema than this version can read.
    """
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
        raise UnreadableError(f"it belongs at {record.own_key or 'another key'}")
    return record
