"""Tables as spreadsheets write them, in whatever encoding, with whatever delimiter. Pure."""

import codecs
import csv
import re
from collections.abc import Callable, Iterator
from io import StringIO

DELIMITERS = ",;\t|"
# Longest first: UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)  # a first line for Excel alone


def decode(data: bytes, fallback: str = "") -> str:
    """The text of a file: by its mark, or UTF-16 by its zeros, or UTF-8, or else `fallback`.

    Raises UnicodeDecodeError where it is none of them.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding)
    head = data[:64]  # it begins with names of columns, each of whose letters has a zero beside it
    if b"\0" in head:
        little = head[1::2].count(0) > head[::2].count(0)
        return data.decode("utf-16-le" if little else "utf-16-be")
    try:
        return data.decode()
    except UnicodeDecodeError:
        if not fallback:
            raise
        return data.decode(fallback)


def read_table(text: str, known: Callable[[str], bool]) -> Iterator[tuple[int, list[str], str]]:
    """The rows that are not blank: the line each begins at, its cells, and the delimiter.

    known: whether a column may be called so: the delimiter is the one that makes the most names
    that are known of the first row. Raises csv.Error where a quote is never closed.
    """
    separator = _SEPARATOR.match(text)
    delimiter = separator[1] if separator else _delimiter(text, known)
    reader = csv.reader(
        StringIO(text, newline=""), strict=True, skipinitialspace=True, delimiter=delimiter
    )
    line = 1  # where a row begins; a quoted cell may go over several
    for cells in reader:
        blank = not any(cell.strip() for cell in cells)
        if not blank and not (separator and line == 1):
            yield line, cells, delimiter
        line = reader.line_num + 1


def _delimiter(text: str, known: Callable[[str], bool]) -> str:
    first = next((line for line in text.splitlines() if line.strip(f" {DELIMITERS}")), "")

    def names(delimiter: str) -> int:
        return sum(known(cell) for cell in next(csv.reader([first], delimiter=delimiter), []))

    return max(DELIMITERS, key=names)  # of several that make as many, the first
