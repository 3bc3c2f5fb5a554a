"""Measures how much memory the tensors of a computation take at the same time.

A dispatch mode sees every tensor that an operation returns, and a weak reference reports when its
storage is freed. This works for tensors with memory and for those on `meta`, which have none.
Memory that an operation allocates and frees by itself, such as a convolution's workspace, is not
seen.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from svd_engine.call_sites import CallSite, call_sites

DEPTH = 4  # call sites that are kept for each allocation


@dataclass
class Allocation:
    """A storage, from the operation that allocated it until it is freed."""

    bytes: int
    shape: tuple[int, ...]  # of the tensor that it was allocated for
    dtype: torch.dtype
    calls: tuple[CallSite, ...]  # the call sites that allocated it, the innermost first
    made: int  # the number of allocations before it
    freed: float = inf  # the number of allocations before it was freed

    @property
    def where(self) -> str:
        """The engine's call sites that allocated it, the innermost first, as text."""
        return " < ".join(map(str, self.calls))


class LiveBytes(TorchDispatchMode):
    """While entered, counts the bytes of live storages on one kind of device, in whole blocks."""

    def __init__(self, device_type: str, block: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device_type, self._block = device_type, block
        self._alive: dict[int, tuple[weakref.ref[Any], Allocation]] = {}
        self.allocations: list[Allocation] = []
        self.now = 0  # bytes
        self.peak = 0
        self._peak_at = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors until they are freed, unless they are counted already."""
        for tensor in tensors:
            if tensor.device.type == self._device_type:
                storage = tensor.untyped_storage()
                if id(storage) not in self._alive:
                    self._add(tensor, storage)

    def at_peak(self) -> list[Allocation]:
        """The allocations that were alive when the peak was first reached."""
        return [a for a in self.allocations if a.made <= self._peak_at < a.freed]

    def _add(self, tensor: Tensor, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), -(-storage.nbytes() // self._block) * self._block
        calls = call_sites(__file__, DEPTH)
        made = Allocation(size, tuple(tensor.shape), tensor.dtype, calls, len(self.allocations))

        def free(_: Any) -> None:
            del self._alive[key]
            self.now -= size
            made.freed = len(self.allocations)

        self._alive[key] = weakref.ref(storage, free), made
        self.allocations.append(made)
        self.now += size
        if self.now > self.peak:
            self.peak, self._peak_at = self.now, made.made
