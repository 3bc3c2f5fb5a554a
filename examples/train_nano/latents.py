"""A film's latents: how each frame looks, and how far it has moved.

The VAE's encoder says the same within a percent, and is as costly as a training step. The code
itself costs nothing, so that no clip is seen twice.
"""

import torch
import torch.nn.functional as F
from camera import Films
from linear_code import LinearCode
from torch import Tensor
from weights import MOTION


def encode_films(code: LinearCode, films: Films) -> Tensor:
    """(N, F, C, H/8, W/8)."""
    seen = code.encode(films.frames.flatten(0, 1)).unflatten(0, films.frames.shape[:2])
    return torch.cat([seen, films.displacement], dim=2)


def encode_stills(code: LinearCode, pictures: Tensor) -> Tensor:
    """(N, C, H/8, W/8): what has not moved."""
    return F.pad(code.encode(pictures), (0, 0, 0, 0, 0, MOTION))
