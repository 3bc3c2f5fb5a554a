"""Train the VAE: a picture's encoder, and the decoder that sees a few frames at a time.

    python examples/train_nano/train_vae.py --recipe cpu --out runs/nano

The encoder stays what it begins as, the linear code (see `linear_code.py`): the latents of what
moves are then nearly those of the first frame, moved, which is what the UNet has to learn. The
decoder learns to see more in them than a linear one does, from latents with a little noise, so that
it forgives the UNet's errors.
"""

import math

import torch
import torch.nn.functional as F
from begin import LOG_VARIANCE, begin_vae
from camera import draw_clip
from latents import encode_film
from linear_code import LinearCode, load_code
from loop import generator, loader, train
from pictures import load_photographs
from recipes import VaeRecipe, arguments
from torch import Tensor, nn
from torch.utils.data import Dataset
from weights import initialise, vae_config

from svd_engine.config import VAEConfig
from svd_engine.vae import VAE, TemporalDecoder

DEVIATION = math.exp(0.5 * LOG_VARIANCE)  # of the posterior


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Small clips, a batch an item: frames (clips, F, 3, H, W), and latents (clips, F, C, h, w)."""

    def __init__(
        self, recipe: VaeRecipe, code: LinearCode, photographs: list[Tensor], start: int
    ) -> None:
        self.recipe, self.code, self.photographs = recipe, code, photographs
        self.start = start

    def __len__(self) -> int:
        return self.recipe.schedule.steps - self.start

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        step = self.start + item
        rng = generator(1, step)
        clips, frames, side = self.recipe.shapes[step % len(self.recipe.shapes)]
        times = torch.arange(frames).float()
        drawn = [draw_clip(self.photographs, times, (side, side), rng) for _ in range(clips)]
        latents = torch.stack([encode_film(self.code, clip) for clip in drawn])
        noise = torch.randn(latents.shape, generator=rng)
        return torch.stack([clip.frames for clip in drawn]), latents + DEVIATION * noise


def losses(decoder: TemporalDecoder, frames: Tensor, latents: Tensor) -> dict[str, Tensor]:
    """The colours' squared and absolute error. frames: (clips, F, 3, H, W)."""
    pictures = frames.flatten(0, 1)
    decoded = decoder(latents.flatten(0, 1), frames=frames.shape[1])
    squared = F.mse_loss(decoded, pictures)
    error = (decoded - pictures).detach().pow(2).mean((1, 2, 3))
    return {
        "loss": squared + 0.1 * F.l1_loss(decoded, pictures),
        "psnr": 10 * (4 / error).log10().mean(),
    }


def begin(code: LinearCode) -> VAE:
    """The VAE before its training."""
    vae = initialise(VAE(VAEConfig.model_validate(vae_config())), generator(0))
    begin_vae(vae, code)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    return vae


def main() -> None:
    recipe, out, device = arguments(__doc__)
    photographs = load_photographs()
    code = load_code(out)
    vae = begin(code).to(device)

    def loss(_step: int, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        frames, latents = (part.to(device) for part in batch)
        return losses(vae.decoder, frames, latents)

    train(
        "vae",
        out,
        nn.ModuleDict({"vae": vae}),
        recipe.vae.schedule,
        lambda start: loader(Crops(recipe.vae, code, photographs, start), recipe.workers),
        loss,
    )


if __name__ == "__main__":
    main()
