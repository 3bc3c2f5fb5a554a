"""A dictionary of bounded size."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(OrderedDict[K, V], Generic[K, V]):
    """Keeps the values that were set last; older ones are evicted."""

    def __init__(self, kept: int) -> None:
        """kept: how many values."""
        super().__init__()
        self._kept = kept

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._kept:
            self.popitem(last=False)
