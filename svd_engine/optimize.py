"""Speeds up networks from outside, without changing what they compute.

On CUDA, a step of the UNet is recorded once for each size as a CUDA graph and then replayed: for
small clips, launching 1,300 kernels takes longer than running them. Elsewhere, torch.compile
compiles the blocks of the UNet and the VAE, once for each kind and size of block, independent of
the picture, seed, guidance and number of steps. The compiler's cache on disk outlives the process.
In both cases the first step of a new size takes longer, and the log says how long.

Attention is PyTorch's `scaled_dot_product_attention`. On CUDA its backends are tried in the order
of `ATTENTION`; none of them accumulates in half precision.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from svd_engine.conditioning import latent_shape
from svd_engine.exact import decode_slices
from svd_engine.layers import Constants, ResBlock, TemporalResBlock
from svd_engine.params import RenderParams
from svd_engine.sizes import LATENT_SCALE
from svd_engine.transformer import TemporalTransformerBlock, TransformerBlock
from svd_engine.unet import UNet
from svd_engine.vae import VAE

log = logging.getLogger("svd_engine")

# On an H200 cuDNN's attention runs at 440 TFLOP/s, and PyTorch's own flash attention at 270. The
# third backend is for the VAE's single head of 512 channels, which the others do not support.
ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
BLOCKS = (ResBlock, TemporalResBlock, TransformerBlock, TemporalTransformerBlock)
SHAPES = 64  # the most shapes that one kind of block may be compiled for

Part = Callable[..., Tensor]  # of a step: from features and constants to features, or to v


def optimize(network: UNet | VAE) -> None:
    """Speed a network up from now on. On CUDA a VAE stays as it is: it launches few kernels."""
    on_cuda = next(network.parameters()).is_cuda
    if not on_cuda:
        _compile(network)
    if isinstance(network, UNet):
        deep: Part = network.deep
        shallow: Part = network.shallow
        if on_cuda:
            deep, shallow = _Graphs(network, deep), _Graphs(network, shallow)
        network.deep = _Announced(deep)  # type: ignore[method-assign]
        network.shallow = shallow  # type: ignore[method-assign]


@torch.no_grad()
def warm_up(network: UNet | VAE, params: RenderParams) -> None:
    """Compute a step, or decode three frames, on zeros of the requested size.

    This makes torch.compile and Triton compile whatever they need for that size.
    """
    weights = next(network.parameters())
    if isinstance(network, VAE):
        latents = weights.new_zeros(latent_shape(params, network.config.latent_channels))
        decode_slices(network, latents[:3])
        return
    clips, channels = 2 if params.guided else 1, network.config.in_channels
    context = weights.new_zeros(clips, 1, network.config.per_block("cross_attention_dim")[0])
    sample = weights.new_zeros(clips, *latent_shape(params, channels))
    network(sample, weights.new_zeros((), dtype=torch.float32), context, context[:, 0, :3])


def _compile(network: nn.Module) -> None:
    """Compile every block of a network when it is first used."""
    torch._dynamo.config.recompile_limit = SHAPES
    for module in network.modules():
        if isinstance(module, BLOCKS):
            module.compile(fullgraph=True, dynamic=False)


@dataclass
class _Announced:
    """A part that logs how long its first call takes for each new size."""

    part: Part
    seen: set[torch.Size] = field(default_factory=set)

    def __call__(self, x: Tensor, constants: Constants) -> Tensor:
        if x.shape in self.seen:
            return self.part(x, constants)
        _, frames, height, width, _ = x.shape
        size = f"{frames} frames of {LATENT_SCALE * width}x{LATENT_SCALE * height}"
        log.info("getting ready for %s; the first step takes longer", size)
        start = time.perf_counter()
        result = self.part(x, constants)
        self.seen.add(x.shape)
        log.info("ready for %s after %.1f s", size, time.perf_counter() - start)
        return result


@dataclass(frozen=True)
class _Graph:
    """A recorded part of a step, with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    tensors: list[Tensor]
    constants: dict[nn.Module, Tensor]
    result: Tensor


class _Graphs:
    """Runs a part of a UNet's step as a CUDA graph. Only the graph of the last size is kept.

    A graph replays the launch arguments of its kernels. Two of them may change: a worker that is
    short of memory moves the weights, and the deviation `norm_eps` changes the norms' epsilons.
    Both are therefore compared before a replay.
    """

    def __init__(self, unet: UNet, part: Part) -> None:
        self._part = part
        self._weights = list(unet.parameters())
        self._norms = [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]
        self._key: Any = None
        self._graph: _Graph | None = None

    def __call__(self, *given: Any) -> Tensor:
        """given: tensors, then the constants."""
        *tensors, constants = given
        places = tuple(weight.data_ptr() for weight in self._weights)
        epsilons = tuple(norm.eps for norm in self._norms)
        key = [tensor.shape for tensor in tensors], places, epsilons
        if self._graph is None or key != self._key:
            self._graph = None  # free its memory before another is recorded
            self._graph, self._key = self._record(tensors, constants), key
        recorded = self._graph
        # The constants are a hundred small tensors, so they are copied in one launch.
        torch._foreach_copy_(recorded.tensors, tensors)
        own = [constants[module] for module in recorded.constants]
        torch._foreach_copy_(list(recorded.constants.values()), own)
        recorded.graph.replay()
        return recorded.result.clone()

    def _record(self, tensors: list[Tensor], constants: Constants) -> _Graph:
        tensors = [tensor.clone() for tensor in tensors]
        held = {module: value.clone() for module, value in constants.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), sdpa_kernel(ATTENTION, set_priority=True):
            self._part(*tensors, held)  # compiles and allocates what must not be recorded
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), sdpa_kernel(ATTENTION, set_priority=True):
            result = self._part(*tensors, held)
        return _Graph(graph, tensors, held, result)
