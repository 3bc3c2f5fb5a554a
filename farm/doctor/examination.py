"""Runs the checks, one after another, each with a time limit."""

from collections.abc import Iterable, Iterator
from concurrent.futures import wait
from typing import NamedTuple

from farm.background import in_daemon_thread
from farm.doctor.check import Check, Context, Finding, Status, Unchecked, failed, unknown
from farm.errors import RequestError
from farm.masking import mask_urls
from farm.settings import load_settings
from svd_engine.command_line import one_line


class Result(NamedTuple):
    """A finding, and the name of its check."""

    check: str
    finding: Finding


def context_of(store: str | None) -> Context:
    """The settings that are in effect here, or what is wrong with them."""
    try:
        return Context(load_settings(store=store), store=store)
    except RequestError as error:
        return Context(None, str(error))


def examine(context: Context, checks: Iterable[Check]) -> Iterator[Result]:
    """The findings of all checks, in their order. A check that hangs or raises stops no other."""
    for check in checks:
        for finding in _findings(check, context):
            yield Result(
                check.name, Finding(finding.status, *map(_shown, (finding.text, finding.advice)))
            )


def _shown(text: str) -> str:
    return one_line(mask_urls(text))


def worst(results: Iterable[Result]) -> Status:
    """`failed` if any finding is, and otherwise `warning` if any is, and otherwise `ok`."""
    found = {result.finding.status for result in results}
    return next((each for each in (Status.FAILED, Status.WARNING) if each in found), Status.OK)


def _findings(check: Check, context: Context) -> list[Finding]:
    """What a check finds within its limit. It goes on in its thread if it takes longer."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check.run(context))
        except Unchecked as reason:
            found.append(unknown(str(reason)))
        except Exception as error:
            found.append(_broken(error))

    _, late = wait({in_daemon_thread(run)}, check.limit_s)
    return [*found, _late(check.limit_s)] if late else found


def _broken(error: Exception) -> Finding:
    return failed(
        f"The check could not be finished: {type(error).__name__}: {error}.",
        "This is a fault of the check, or something that it does not expect: please report it.",
    )


def _late(limit_s: float) -> Finding:
    return failed(
        f"The check did not end within {limit_s:g} s.",
        "Something that it asks does not answer: a file system, a server, or a driver.",
    )
