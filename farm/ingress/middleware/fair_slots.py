"""So many at once: in all, and of each caller. Pure."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class FullError(Exception):
    """No slot is free for this caller now."""


class Slots:
    """Slots that callers share: none holds more than are left free for the others.

    So the first may have half of them, and whoever comes next still finds some, whatever those
    before do.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._held = Counter[str]()

    @contextmanager
    def hold(self, caller: str, count: int = 1) -> Iterator[None]:
        """Hold some until the end of the block; FullError where they are not to be had."""
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
