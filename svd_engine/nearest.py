"""Suggests the name that was meant when an unknown one was given."""

import difflib
from collections.abc import Iterable

LONGEST = 80  # characters of a name that are compared; the time grows with their square


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean x?` with the nearest of the known names, or nothing if none is near."""
    spelt = {_plain(name): name for name in known}
    near = difflib.get_close_matches(_plain(given[:LONGEST]), spelt, 1)
    return f"; did you mean {spelt[near[0]]}?" if near else ""


def no_such(given: str, known: Iterable[str]) -> str:
    """`there is no 'jbos'; did you mean jobs?; there is ...`, with all known names."""
    names = list(known)
    return f"there is no {given!r}{did_you_mean(given, names)}; there is {', '.join(names)}"


def _plain(name: str) -> str:
    return name.lower().lstrip("-")  # hyphens do not make options similar
