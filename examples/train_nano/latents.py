"""A film's latents: how each frame looks, and how far it has moved.

The VAE's encoder says the same within a percent, and is as costly as a training step. The code
itself costs nothing, so that no clip is seen twice.
"""

import torch
import torch.nn.functional as F
from camera import Clip
from linear_code import LinearCode
from torch import Tensor
from weights import MOTION


@torch.no_grad()
def encode_film(code: LinearCode, clip: Clip) -> Tensor:
    """(F, C, H/8, W/8)."""
    return torch.cat([code.encode(clip.frames), clip.displacement], dim=1)


@torch.no_grad()
def encode_still(code: LinearCode, pictures: Tensor) -> Tensor:
    """(N, C, H/8, W/8): what has not moved."""
    return F.pad(code.encode(pictures), (0, 0, 0, 0, 0, MOTION))
