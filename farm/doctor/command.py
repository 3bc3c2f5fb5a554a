"""The command `python -m farm doctor`."""

import argparse
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from farm.doctor.check import Status
from farm.doctor.checks import CHECKS
from farm.doctor.examination import Result, context_of, examine, worst

NAME = max(len(check.name) for check in CHECKS)
STATUS = max(map(len, Status))


def run(options: argparse.Namespace) -> int:
    """Check everything. Returns 1 if anything failed, and otherwise 0."""
    results = []
    with _quiet():
        for result in examine(context_of(options.store), CHECKS):
            results.append(result)
            if not options.json:
                print(line(result), flush=True)
    if options.json:
        print(json.dumps(report(results), indent=1))
    return 1 if worst(results) == Status.FAILED else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Log no warnings: what is wrong is in the findings."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


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
