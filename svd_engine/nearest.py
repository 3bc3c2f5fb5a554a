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
    """`. Did you mean 'x'?`, to end a sentence with; empty if no name is near."""
    near = nearest(given, known)
    return f". Did you mean {near!r}?" if near else ""


def no_such(kind: str, given: str, known: Iterable[str]) -> str:
    """The message `Unknown command 'jbos'. Did you mean 'jobs'? There is ...`, with all names."""
    names = list(known)
    return in_sentences(
        [f"Unknown {kind} {given!r}{did_you_mean(given, names)}", f"There is {', '.join(names)}"]
    )


def in_sentences(texts: Iterable[str]) -> str:
    """Texts one after another. One that is followed by another, and has no end, gets a full stop.

    The last one stays open, because whoever reports the message may add to it.
    """
    *others, last = [*texts] or [""]
    return " ".join([*(text if text[-1:] in "?.!" else f"{text}." for text in others), last])


def _plain(name: str) -> str:
    """A name as it is compared: leading hyphens must not make two options alike."""
    return name.lower().lstrip("-")
