"""Counts what one UNet step launches, on `meta`: nothing is computed, and no weights are needed.

On a GPU the launches are PyTorch's operations and the engine's Triton kernels, whose wrappers run
except for the launch itself. On a CPU there are only PyTorch's operations.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from svd_engine.bench.floor import step_inputs
from svd_engine.bench.measure import is_free
from svd_engine.call_sites import call_sites
from svd_engine.checkpoint import lay_out
from svd_engine.config import UNetConfig
from svd_engine.params import RenderParams
from svd_engine.stand_in import StandIn
from svd_engine.unet import UNet

COPIES = {"aten::copy_", "aten::clone", "aten::contiguous", "aten::_to_copy"}


@dataclass
class Launches:
    """How often each operation or kernel is launched, and which copies only change a layout."""

    of: Counter[str] = field(default_factory=Counter)
    layout_copies: Counter[str] = field(default_factory=Counter)  # by call site

    @property
    def total(self) -> int:
        return self.of.total()


class _Counting(TorchDispatchMode):
    def __init__(self, launches: Launches) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._launches = launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_free(func):
            return result
        name = func.name().partition(".")[0]
        self._launches.of[name] += 1
        if name in COPIES:
            # In copy_(destination, source) and clone(source), the source is the last tensor.
            source = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)][-1]
            if source.dtype == result.dtype and _order(source) not in (None, _order(result)):
                (caller,) = call_sites(__file__, 1) or ("elsewhere",)
                self._launches.layout_copies[str(caller)] += 1
        return result


def _order(x: Tensor) -> list[int] | None:
    """The dimensions of more than one element in the order of memory, the outermost first.

    None if values are repeated, because a copy then does more than change the layout.
    """
    dims = [dim for dim in range(x.dim()) if x.shape[dim] > 1]
    if any(x.stride(dim) == 0 for dim in dims):
        return None
    return sorted(dims, key=x.stride, reverse=True)


class _Attention:
    """Replaces PyTorch's fused attention, which on `meta` would be counted as its parts."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches

    def __call__(self, q: Tensor, *_: Tensor) -> Tensor:
        """A result (N, heads, L, D) with the memory layout of the fused kernels' results."""
        self._launches.of["aten::scaled_dot_product_attention"] += 1
        return q.new_empty(q.transpose(1, 2).shape).transpose(1, 2)


@contextmanager
def _kernels_counted(launches: Launches) -> Iterator[None]:
    """Count the engine's kernels instead of launching them."""
    from svd_engine.kernels.launch import Kernel

    def counted(kernel: Kernel, _grid: Any) -> Any:
        def launch(*_: Any, **__: Any) -> None:
            launches.of[f"triton::{kernel.name}"] += 1

        return launch

    with patch.object(Kernel, "__getitem__", counted):
        yield


@torch.no_grad()
def count_step(config: UNetConfig, params: RenderParams, on_gpu: bool) -> Launches:
    """Count the launches of a guided step in half precision. on_gpu: as on CUDA; needs Triton."""
    launches = Launches()
    with torch.device("meta"):
        unet = UNet(config).to(torch.float16).requires_grad_(False)
        lay_out(unet)
        sample, timestep, context, ids = step_inputs(config, params)
    sample, context, ids = (x.half() for x in (sample, context, ids))
    (constants,) = unet.constants(timestep.expand(1, 2), context, ids, sample.shape[1])
    with ExitStack() as entered:
        entered.enter_context(patch.object(F, "scaled_dot_product_attention", _Attention(launches)))
        if on_gpu:
            entered.enter_context(_kernels_counted(launches))
        entered.enter_context(StandIn("cuda" if on_gpu else "cpu"))
        entered.enter_context(_Counting(launches))
        unet.predict(sample, constants)
    return launches
