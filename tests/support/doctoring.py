"""Helpers for tests of the doctor: run one check, and look at what it finds."""

from pathlib import Path
from typing import Any

from farm.doctor.check import Check, Context, Finding
from farm.doctor.examination import examine
from farm.settings import load_settings


def findings(check: Any, limit_s: float = 60.0, **settings: Any) -> list[Finding]:
    """What one check finds, as it is shown. settings: as for `load_settings`."""
    context = Context(load_settings(**settings))
    return [result.finding for result in examine(context, [Check(check, limit_s)])]


def finding(check: Any, **settings: Any) -> Finding:
    """The only thing that a check finds."""
    (found,) = findings(check, **settings)
    return found


def content(folder: Path) -> set[Path]:
    """Everything in a folder."""
    return {*folder.rglob("*")}
