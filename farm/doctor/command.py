"""The command `python -m farm doctor`."""

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from farm.doctor.bundle import parts_of, write
from farm.doctor.check import Context, Status
from farm.doctor.checks import CHECKS
from farm.doctor.examination import Result, context_of, examine, worst
from farm.errors import RequestError

NAME = max(len(check.name) for check in CHECKS)
STATUS = max(map(len, Status))
TERMINAL = "there is no terminal to ask whether to write the archive: give --yes"


def run(options: argparse.Namespace) -> int:
    """Check everything, and write the archive if one is wanted. Returns 1 if anything failed."""
    _check_usage(options)
    context, results = context_of(options.store), []
    with _quiet():
        for result in examine(context, CHECKS):
            results.append(result)
            if not options.json:
                print(line(result), flush=True)
    summary = report(results)
    if options.json:
        print(json.dumps(summary, indent=1))
    if options.bundle is not None and not _bundle(options, context, summary):
        return 1
    return 1 if worst(results) == Status.FAILED else 0


def line(result: Result) -> str:
    """A finding for people."""
    finding = result.finding
    text = " ".join(filter(None, (finding.text, finding.advice)))
    return f"{finding.status:{STATUS}}  {result.check:{NAME}}  {text}"


def report(results: Iterable[Result]) -> dict[str, object]:
    """The findings for machines."""
    found = [*results]
    checks = [
        {"check": name, "status": each.status, "text": each.text, "advice": each.advice}
        for name, each in found
    ]
    return {"status": worst(found), "checks": checks}


def _check_usage(options: argparse.Namespace) -> None:
    """Raise RequestError before anything is checked if the archive could not be written."""
    if options.bundle is None:
        if options.job is not None or options.yes:
            raise RequestError("--job and --yes go with --bundle FILE")
        return
    file = Path(options.bundle)
    if file.exists():
        raise RequestError(f"--bundle: {file} exists already: give a new name")
    if not file.absolute().parent.is_dir():
        raise RequestError(f"--bundle: there is no folder {file.absolute().parent}")
    if not options.yes and not sys.stdin.isatty():
        raise RequestError(TERMINAL)


def _bundle(options: argparse.Namespace, context: Context, summary: dict[str, object]) -> bool:
    """Show what goes into the archive, ask, and write it; whether it was written."""
    parts = parts_of(context, summary, options.job)
    _say(f"\nThis goes into {options.bundle}, with *** in place of secrets:")
    for part in parts:
        _say(f"  {part.name:18} {len(part.text.encode()):8} bytes  {part.what}")
    if not options.yes:
        sys.stderr.write("Write it? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            _say("Nothing was written.")
            return False
    try:
        write(parts, Path(options.bundle))
    except OSError as error:
        raise RequestError(f"--bundle: {options.bundle}: {error.strerror}") from error
    _say(f"Wrote {options.bundle}. Look into it before you send it to anybody.")
    return True


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def _quiet() -> Iterator[None]:
    """Log no warnings: what is wrong is in the findings."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
