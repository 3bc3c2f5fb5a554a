"""A reader of CSV files as spreadsheets write them, in any encoding, with any delimiter. Pure."""

import codecs
import csv
import re
from collections.abc import Callable, Iterator
from io import StringIO

DELIMITERS = ",;\t|"
# UTF-32 before UTF-16, because its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)  # Excel's own first line


def decode(data: bytes, fallback: str = "") -> str:
    """Decode a file by its byte order mark, as UTF-16 if it has zeros, as UTF-8, or as `fallback`.

    Raises UnicodeDecodeError if none of these fits.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding)
    head = data[:64]  # ASCII column names: in UTF-16, each letter has a zero beside it
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
    """Yield each row that is not blank: the number of its first line, its cells, the delimiter.

    known: whether a column may have this name. The delimiter is the one that splits the first row
    into the most known names. Raises csv.Error if a quote is never closed.
    """
    separator = _SEPARATOR.match(text)
    delimiter = separator[1] if separator else _delimiter(text, known)
    reader = csv.reader(
        StringIO(text, newline=""), strict=True, skipinitialspace=True, delimiter=delimiter
    )
    line = 1  # where the row begins; a quoted cell may contain line breaks
    for cells in reader:
        blank = not any(cell.strip() for cell in cells)
        if not blank and not (separator and line == 1):
            yield line, cells, delimiter
        line = reader.line_num + 1


def _delimiter(text: str, known: Callable[[str], bool]) -> str:
    first = next((line for line in text.splitlines() if line.strip(f" {DELIMITERS}")), "")

    def names(delimiter: str) -> int:
        return sum(known(cell) for cell in next(csv.reader([first], delimiter=delimiter), []))

    return max(DELIMITERS, key=names)  # the first of equals
