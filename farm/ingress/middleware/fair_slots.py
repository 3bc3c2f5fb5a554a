"""A limited number of slots, shared fairly between callers. Pure."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class FullError(Exception):
    """No slot is free for this caller now."""


class Slots:
    """Slots of which no caller may hold more than it leaves free for the others.

    A caller that is alone may hold half of them. Each caller that joins may hold half of what the
    others left, so a newcomer always finds some.
    """

    def __init__(self, total: int) -> None:
        self._free = total
        self._held = Counter[str]()

    @contextmanager
    def hold(self, caller: str, count: int = 1) -> Iterator[None]:
        """Hold slots within the context. Raises FullError if the caller may have no more now."""
        if self._held[caller] + count > self._free - count:
            raise FullError
        self._free -= count
        self._held[caller] += count
        try:
            yield
        finally:
            self._free += count
            self._held[caller] -= count
            if not self._held[caller]:
                del self._held[caller]
