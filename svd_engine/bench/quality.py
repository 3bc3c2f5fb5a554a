"""Measures the similarity of two clips by PSNR and SSIM, as defined in the literature."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from svd_engine.video import Frames

PEAK = 255.0
LUMA = (0.299, 0.587, 0.114)
WINDOW, SPREAD = 11, 1.5  # pixels, of the Gaussian window of SSIM
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(a: Frames, b: Frames) -> float:
    """The PSNR in decibels of two clips (F, H, W, 3); infinite if they are equal."""
    error = np.square(a.astype(np.float64) - b).mean()
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ssim(a: Frames, b: Frames) -> float:
    """The mean structural similarity of two clips' luma; 1 if they are equal.

    Wang et al. 2004, with their constants, over windows that are entirely inside the frame. Frames
    (F, H, W, 3) must have at least 11 pixels along each side.
    """
    x, y = _luma(a), _luma(b)
    mean_x, mean_y = _blur(x), _blur(y)
    spread_x = _blur(x * x) - mean_x**2
    spread_y = _blur(y * y) - mean_y**2
    together = _blur(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + C1) * (2 * together + C2)
    likeness /= (mean_x**2 + mean_y**2 + C1) * (spread_x + spread_y + C2)
    return likeness.mean().item()


def _luma(frames: Frames) -> Tensor:
    """(F, H, W, 3) to (F, 1, H, W), float64."""
    return (torch.from_numpy(frames).double() @ torch.tensor(LUMA).double())[:, None]


def _blur(x: Tensor) -> Tensor:
    at = torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2
    line = (-(at**2) / (2 * SPREAD**2)).exp()
    line /= line.sum()
    return F.conv2d(F.conv2d(x, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))
