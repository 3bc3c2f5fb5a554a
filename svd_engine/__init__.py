"""Stable Video Diffusion in PyTorch, numerically faithful to diffusers' pipeline."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svd_engine.checkpoint import Checkpoint, open_checkpoint
    from svd_engine.engine import Clip, Engine
    from svd_engine.params import RenderDefaults, RenderParams

__version__ = "0.2.0"
# The version of the arithmetic behind the pixels. A change to any pixel of any request, or to a
# parameter's default, must raise it: it is part of the names of the farm's results, and the farm
# does not resume from latents of another version. Changes that keep all pixels leave it as it is.
NUMERICS = 4

# Imported on first use, so that `svd_engine.params` does not need torch.
_HOMES = {
    "Checkpoint": "svd_engine.checkpoint",
    "Clip": "svd_engine.engine",
    "Engine": "svd_engine.engine",
    "RenderDefaults": "svd_engine.params",
    "RenderParams": "svd_engine.params",
    "open_checkpoint": "svd_engine.checkpoint",
}
__all__ = [
    "NUMERICS",
    "Checkpoint",
    "Clip",
    "Engine",
    "RenderDefaults",
    "RenderParams",
    "__version__",
    "open_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'svd_engine' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
