"""Lets tensors on `meta` stand in for a device's, so that the engine runs as it would there."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = ("conv2d", "conv_transpose2d")


class StandIn(TorchFunctionMode):
    """While entered, makes tensors on `meta` behave like those of a device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._on_cuda = device == "cuda"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return self._on_cuda and args[0].is_meta
        if func == Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return not self._on_cuda and args[0].is_meta
        if func is Tensor.cpu:
            return args[0].clone()  # the copy is counted, although it would be on the CPU
        if func is F.scaled_dot_product_attention:
            # Fused kernels store no scores, and lay their result out by tokens, then heads.
            return torch.empty_like(args[0].transpose(1, 2)).transpose(1, 2)
        result = func(*args, **(kwargs or {}))
        # Compared by name, because torch does not export the `conv_transpose2d` that arrives here.
        return _channels_last(result) if getattr(func, "__name__", "") in CONVOLUTIONS else result


def _channels_last(x: Tensor) -> Tensor:
    """Lay out a result as cuDNN and oneDNN do for channels-last filters; `meta` does not."""
    _, channels, height, width = x.shape
    return x.as_strided(x.shape, (height * width * channels, 1, width * channels, channels))
