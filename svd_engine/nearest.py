"""Finds the known name that was probably meant by an unknown one."""

import difflib
from collections.abc import Iterable

LONGEST = 80  # characters of a name that are compared, as the time grows with their square
SHORTEST = 3  # characters of a name that may be found within a longer one


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name most like the given one, or the shortest that contains it, if any."""
    plain = {_plain(name): name for name in known}
    text = _plain(given[:LONGEST])
    if near := difflib.get_close_matches(text, plain, 1):
        return plain[near[0]]
    longer = [each for each in plain if len(text) >= SHORTEST and text in each]
    return plain[min(longer, key=len)] if longer else None


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean x?` with the nearest known name; empty if no name is near."""
    near = nearest(given, known)
    return f"; did you mean {near}?" if near else ""


def no_such(given: str, known: Iterable[str]) -> str:
    """The message `there is no 'jbos'; did you mean jobs?; there is ...`, with all known names."""
    names = list(known)
    return f"there is no {given!r}{did_you_mean(given, names)}; there is {', '.join(names)}"


def _plain(name: str) -> str:
    """A name as it is compared: leading hyphens must not make two options alike."""
    return name.lower().lstrip("-")
