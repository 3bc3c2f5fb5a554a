"""The farm's log in JSON, as a process of the farm writes it, for tests in one process."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from farm.logs import OneLine


class _Kept(logging.Handler):
    def __init__(self, lines: list[dict[str, Any]]) -> None:
        super().__init__()
        self._lines = lines
        self.setFormatter(OneLine("json", ""))

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(json.loads(self.format(record)))


@contextmanager
def logged_lines() -> Iterator[list[dict[str, Any]]]:
    """The lines that are logged within the context, by any thread."""
    log, lines = logging.getLogger("farm"), list[dict[str, Any]]()
    handler, level = _Kept(lines), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
