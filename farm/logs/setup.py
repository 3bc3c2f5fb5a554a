"""Sets a process up for the farm's log."""

import logging
from collections.abc import Iterable

from farm.logs.lines import LogFormat, OneLine

SERVICE = "%(asctime)s %(levelname)s "  # how lines of the farm's own processes begin
COMMAND = "%(name)s: "  # and those of a command, beside what it prints


def log_to_stderr(
    log_format: LogFormat, secrets: Iterable[str] = (), command: bool = False, **always: str
) -> None:
    """Write the log of this process to stderr, unless the program that it is in has a log already.

    Other libraries' warnings are written the same way. secrets: values to hide. command: whether
    this is a command, which reports only warnings, and not a process of the farm. always: fields
    of every line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(log_format, COMMAND if command else SERVICE, secrets, always))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if not command:
        logging.getLogger("farm").setLevel(logging.INFO)
