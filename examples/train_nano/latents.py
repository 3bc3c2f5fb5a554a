"""A film's latents: how each frame looks, and how far it has moved.

The encoder is very nearly linear (see `begin.py`), and as costly as a training step. Here it is
fitted by one matrix over 8 x 8 patches, which costs nothing, so that no clip is seen twice.
"""

import torch
import torch.nn.functional as F
from camera import CELL, Clip
from torch import Tensor
from weights import APPEARANCE, MOTION

from svd_engine.vae import VAE


class LinearEncoder:
    """The VAE's encoder as a linear map of patches, and of the picture's mean colour."""

    @torch.no_grad()
    def __init__(self, vae: VAE, pictures: Tensor) -> None:
        """Fit it to what the VAE makes of the pictures (N, 3, H, W)."""
        latents = torch.cat([vae.encode(part)[0] for part in pictures.split(8)])
        target = latents[:, :APPEARANCE].flatten(2).transpose(1, 2).flatten(0, 1)
        rows = _rows(pictures).flatten(0, 1)
        self.matrix = torch.linalg.lstsq(rows.double(), target.double()).solution.float()
        # How loud unit noise on the pixels is in each channel of a latent: (C, 1, 1).
        loudness = self.matrix[: 3 * CELL**2].pow(2).sum(0).sqrt()
        self.gain = torch.cat([loudness, torch.zeros(MOTION)])[:, None, None]

    def __call__(self, clip: Clip) -> Tensor:
        """(F, C, H/8, W/8)."""
        height, width = (side // CELL for side in clip.frames.shape[-2:])
        looks = (_rows(clip.frames) @ self.matrix).transpose(1, 2).unflatten(2, (height, width))
        return torch.cat([looks, clip.displacement], dim=1)


def _rows(pictures: Tensor) -> Tensor:
    """(N, patches, 3 * 64 + 4): a patch, the picture's mean colour, and 1."""
    patches = F.unfold(pictures, CELL, stride=CELL).transpose(1, 2)
    mean = pictures.mean((2, 3))[:, None].expand(-1, patches.shape[1], -1)
    return torch.cat([patches, mean, torch.ones_like(mean[..., :1])], dim=-1)
