"""Train the VAE: a picture's encoder, and the decoder that sees a few frames at a time.

    python examples/train_nano/train_vae.py --recipe cpu --out runs/nano

The encoder stays what it begins as, the linear code (see `linear_code.py`): the latents of what
moves are then nearly those of the first frame, moved, which is what the UNet has to learn. The
decoder learns to see more in them than a linear one does, from latents with a little noise, so that
it forgives the UNet's errors.
"""

import torch
import torch.nn.functional as F
from begin import begin_vae
from camera import draw_clip
from linear_code import LinearCode, load_code
from loop import generator, loader, train
from pictures import load_photographs
from recipes import VaeRecipe, arguments
from torch import Tensor, nn
from torch.utils.data import Dataset
from weights import APPEARANCE, initialise, vae_config

from svd_engine.config import VAEConfig
from svd_engine.vae import VAE


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Small clips, a batch an item: (clips, F, 3, H, W), and their displacement."""

    def __init__(self, recipe: VaeRecipe, start: int) -> None:
        self.recipe, self.start, self.photographs = recipe, start, load_photographs()

    def __len__(self) -> int:
        return self.recipe.schedule.steps - self.start

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        step = self.start + item
        rng = generator(1, step)
        clips, frames, side = self.recipe.shapes[step % len(self.recipe.shapes)]
        times = torch.arange(frames).float()
        drawn = [draw_clip(self.photographs, times, (side, side), rng) for _ in range(clips)]
        return (
            torch.stack([clip.frames for clip in drawn]),
            torch.stack([clip.displacement for clip in drawn]),
        )


def losses(
    vae: VAE, frames: Tensor, displacement: Tensor, rng: torch.Generator
) -> dict[str, Tensor]:
    """The colours' squared and absolute error. frames: (clips, F, 3, H, W)."""
    pictures = frames.flatten(0, 1)
    with torch.no_grad():
        mean, log_variance = vae.encode(pictures)
        mean[:, APPEARANCE:] = displacement.flatten(0, 1)
    noise = torch.randn(mean.shape, generator=rng).to(mean)
    latents = mean + (0.5 * log_variance).exp() * noise
    decoded = vae.decoder(latents, frames=frames.shape[1])
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
    vae = begin(load_code(out)).to(device)

    def loss(step: int, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        frames, displacement = (part.to(device) for part in batch)
        return losses(vae, frames, displacement, generator(2, step))

    train(
        "vae",
        out,
        nn.ModuleDict({"vae": vae}),
        recipe.vae.schedule,
        lambda start: loader(Crops(recipe.vae, start), recipe.workers),
        loss,
    )


if __name__ == "__main__":
    main()
