"""Launches kernels, except on `meta`."""

from collections.abc import Callable
from typing import Any

import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


class Kernel:
    """A Triton function that is not launched for tensors on `meta`, whose results exist already.

    This lets `memory_plan` run the code that calls kernels without a GPU.
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
