"""Manifests: CSV or JSONL with a picture in each row, and its name and parameters. Pure."""

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from farm.batch.table import decode, read_table
from farm.errors import RequestError
from svd_engine.reader import ALIASES, LISTS, NAMES, faults_of, parse_params, unknown_parameter

TABLES = (".csv", ".tsv", ".txt")  # Excel saves a tab-separated UTF-16 table as .txt
MANIFESTS = (".jsonl", *TABLES)
FOUND = (".jsonl", ".csv", ".tsv")  # taken for manifests in a folder, where .txt is not
EXCEL = "cp1252"  # Excel's encoding in western Europe and America if not UTF-8
MAX_FAULTS = 100  # reported at once
MAX_NAME = 120  # bytes; titles of clips are longer, and file names end at 255
_OWN = ("picture", "name")
_COLUMNS = (*_OWN, *NAMES)
_DECIMAL = re.compile(r"^\s*(-?\d+),(\d+)\s*$")


@dataclass(frozen=True)
class Entry:
    """A validated row of a manifest; `params` are the fields of RenderParams that it gives."""

    line: int
    picture: str
    name: str = ""
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    """A row with its fields under their full names, or why it cannot be read."""

    line: int
    given: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class _Object(list[tuple[str, Any]]):
    """The pairs of a JSON object, in which a key may occur twice."""


def parse_manifest(
    data: bytes, where: str, locate: Callable[[str], object] = lambda _picture: None
) -> list[Entry]:
    """The rows of a manifest. where: its name, whose suffix tells its format.

    locate: raises RequestError for a text that cannot name a picture.
    Raises RequestError, which lists the faults of all rows by line.
    """
    table = where.lower().endswith(TABLES)
    try:
        text = decode(data, EXCEL if table else "")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RequestError(
            f"{where} line {line}: not UTF-8: {error.reason}; save it as UTF-8"
        ) from error
    rows = list(_table_rows(text) if table else _json_rows(text))
    if not rows:
        raise RequestError(f"{where} has no rows: give one for each picture")
    entries: list[Entry] = []
    faults: list[str] = []
    names: dict[str, int] = {}
    for row in rows:
        entry, wrong = _check(row, locate)
        line = names.setdefault(entry.name, row.line) if entry.name else row.line
        if line != row.line:
            wrong.append(f"name: {entry.name!r} is the name of line {line} already")
        faults += (f"{where} line {row.line}: {fault}" for fault in wrong)
        entries.append(entry)
    refuse(faults)
    return entries


def refuse(faults: list[str]) -> None:
    """Raise RequestError if there are faults: it has the first ones, and the number of the rest."""
    if faults:
        more = len(faults) - MAX_FAULTS
        rest = [f"and {more} more"] if more > 0 else []
        raise RequestError("\n".join(faults[:MAX_FAULTS] + rest))


def is_name(text: str) -> bool:
    """Whether this can be the name of clips in folders and in stores."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    control = any(unicodedata.category(character) == "Cc" for character in text)
    odd = control or "/" in text or ".." in text or text.startswith(".") or text != text.strip()
    return 0 < size <= MAX_NAME and not odd


def _table_rows(text: str) -> Iterator[_Row]:
    keys: list[str] = []
    line = 0
    try:
        for line, cells, delimiter in read_table(text, lambda cell: _key(cell) in _COLUMNS):
            if keys:
                yield _table_row(line, keys, cells, delimiter)
                continue
            keys, faults = _keys(cells)
            if "picture" not in keys:
                faults.append("no column 'picture'; the first line names the columns")
            if faults:
                yield _Row(line, faults=faults)
                return
    except csv.Error as error:
        yield _Row(line + 1, faults=[f"not CSV: {error}"])


def _table_row(line: int, keys: list[str], cells: list[str], delimiter: str) -> _Row:
    """A row, which may end early or in many blank cells: Excel writes both."""
    beyond = [cell for cell in cells[len(keys) :] if cell.strip()]
    beyond += [cell for key, cell in zip(keys, cells, strict=False) if not key and cell.strip()]
    if beyond:
        hint = f"; put a value with {delimiter!r} in quotes" if len(cells) > len(keys) else ""
        return _Row(line, faults=[f"{beyond[0]!r} is in a column without a name{hint}"])
    given = {key: cell for key, cell in zip(keys, cells, strict=False) if cell.strip()}
    if delimiter != ",":  # then the comma is usually the decimal point
        for key in given.keys() - {*_OWN, *LISTS}:
            given[key] = _DECIMAL.sub(r"\1.\2", given[key])
    return _Row(line, given)


def _json_rows(text: str) -> Iterator[_Row]:
    # `splitlines` would also split at characters that JSON allows in a line.
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=_Object)
        except (ValueError, RecursionError) as error:
            yield _Row(line, faults=[f"not JSON: {error}"])
            continue
        if isinstance(row, _Object):
            keys, faults = _keys([key for key, _ in row])
            values = (value for _, value in row)
            given = {k: v for k, v in zip(keys, values, strict=True) if v is not None}
            yield _Row(line, given, faults)
        else:
            yield _Row(line, faults=['must be an object, such as {"picture": "cat.png", "fps": 7}'])


def _keys(columns: list[str]) -> tuple[list[str], list[str]]:
    """The full names of the columns, empty for a blank one, and what is wrong with them."""
    keys = [_key(column) for column in columns]
    keys = [ALIASES.get(key, key) for key in keys]
    faults = [
        unknown_parameter(column.strip(), _COLUMNS)
        for column, key in zip(columns, keys, strict=True)
        if key and key not in _COLUMNS
    ]
    faults += (f"{key}: given twice" for key in _COLUMNS if keys.count(key) > 1)
    return keys, faults


def _key(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip()).lower()


def _check(row: _Row, locate: Callable[[str], object]) -> tuple[Entry, list[str]]:
    """The picture, name and parameters of a row, and what is wrong with them."""
    if row.faults:
        return Entry(row.line, ""), row.faults
    given = dict(row.given)
    picture, name = given.pop("picture", ""), given.pop("name", None)
    params, faults = _params(given)
    if not isinstance(picture, str) or not picture.strip() or not _is_text(picture):
        faults.append(f"picture: give a path or s3://bucket/key, got {picture!r}")
    else:
        try:
            locate(picture)
        except RequestError as error:
            faults.append(f"picture: {error}")
    if name is not None and not (isinstance(name, str) and is_name(name)):
        faults.append(
            f"name: give one that is fit for a file, without '/', '..' and a dot in front, "
            f"of at most {MAX_NAME} bytes, got {name!r}"
        )
    # Two names that differ only in Unicode normalization would be one file on a Mac.
    name = unicodedata.normalize("NFC", str(name or ""))
    return Entry(row.line, str(picture), name, params), faults


def _params(given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The parameters of a row as RenderParams has them, and their faults."""
    try:
        params = parse_params(given)
    except ValidationError as error:
        return {}, [f"{name}: {fault}" for name, fault in faults_of(error)]
    return {name: getattr(params, name) for name in given}, []


def _is_text(text: str) -> bool:
    """Whether the text is valid Unicode: JSON can contain lone surrogates."""
    return text.encode(errors="replace").decode() == text
