"""A linear code of pictures, as good as the VAE's convolutions can carry one.

To encode is to take the first principal components of 8 x 8 patches and convolve them, 3 x 3; to
decode is three times to double by nearest neighbours and convolve, 3 x 3. Nearest neighbours blur
what a patch alone says: both sides learn together what to say instead.
"""

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from loop import load_state
from torch import Generator, Tensor, nn
from weights import APPEARANCE

COMPONENTS = 32
WIDTH = 64  # channels between the decoder's convolutions
CELL = 8  # pixels along each side of a latent's


class LinearCode(nn.Module):
    """Latents (N, APPEARANCE, H/8, W/8) of pictures (N, 3, H, W), and back.

    A latent has half the picture's mean colour more, which the VAE's last norm takes off again.
    """

    components: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("components", torch.zeros(COMPONENTS, 3, CELL, CELL))
        self.encoder = nn.Conv2d(COMPONENTS, APPEARANCE, 3, padding=1, bias=False)
        widths = (APPEARANCE, WIDTH, WIDTH, 3)
        self.decoder = nn.ModuleList(
            nn.Conv2d(one, other, 3, padding=1) for one, other in pairwise(widths)
        )

    @torch.no_grad()
    def begin(self, pictures: Tensor, rng: Generator) -> "LinearCode":
        """The principal components as they are; a decoder that knows nothing."""
        self.components.copy_(principal_components(pictures, COMPONENTS))
        self.encoder.weight.zero_()
        self.encoder.weight[:, :APPEARANCE, 1, 1] = torch.eye(APPEARANCE)
        for conv in self.decoder:
            conv.weight.normal_(0, conv.weight[0].numel() ** -0.5, generator=rng)
            conv.bias.zero_()
        return self

    def encode(self, pictures: Tensor) -> Tensor:
        found = F.conv2d(pictures, self.components, stride=CELL)
        return self.encoder(found + 0.5 * found.mean((2, 3), keepdim=True))

    def decode(self, latents: Tensor) -> Tensor:
        features = latents
        for conv in self.decoder:
            features = conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))
        return features - features.mean((2, 3), keepdim=True) / 3


def principal_components(pictures: Tensor, count: int) -> Tensor:
    """Of the pictures' 8 x 8 patches: (count, 3, 8, 8), strongest first.

    A component's deviation is the fourth root of its variance, and the mean square of those that
    are kept is 1: between a plain code, in which colours drown all detail, and a whitened one.
    """
    patches = F.unfold(pictures, CELL, stride=CELL).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    scale = values**-0.25 / values[:APPEARANCE].sqrt().mean().sqrt()
    return (vectors * scale).T.reshape(count, 3, CELL, CELL)


def load_code(folder: Path, steps: int) -> LinearCode:
    """The code of a run, once it has been trained for so many steps.

    SystemExit before: nothing is built on what is half learned.
    """
    path = folder / "code.pt"
    state = load_state(path) if path.exists() else {"step": 0}
    if state["step"] < steps:
        raise SystemExit(f"{path}: step {state['step']} of {steps}; run train_code.py first")
    trained = nn.ModuleDict({"code": LinearCode()})
    trained.load_state_dict(state["networks"])
    code: LinearCode = trained["code"].requires_grad_(False)
    return code
