"""How kernels are launched, or are not."""

from collections.abc import Callable
from typing import Any

import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


class Kernel:
    """A function in Triton's language. On `meta` it is not launched: only its results are made.

    So the memory of what calls it can be planned without a GPU, see `memory_plan`.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.name = function.__name__
        self.function = triton.jit(function)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(first: Tensor | TensorDescriptor, *others: Any, **options: Any) -> None:
            tensor = first if isinstance(first, Tensor) else first.base
            if not tensor.is_meta:
                self.function[grid](first, *others, **options)

        return launch
