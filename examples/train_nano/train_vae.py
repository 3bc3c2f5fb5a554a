"""Train the VAE's decoder, which sees a few frames at a time.

    python examples/train_nano/train_vae.py --recipe cpu --out runs/nano

The encoder stays what it begins as, the linear code (see `linear_code.py`): the latents of what
moves are then nearly those of the first frame, moved, which is what the UNet has to learn. The
decoder learns to see more in them than a linear one does, from latents with a little noise, so that
it forgives the UNet's errors.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from begin import LOG_VARIANCE, begin_vae
from camera import draw_clip
from latents import encode_film
from linear_code import LinearCode, load_code
from loop import Batch, generator, train
from pictures import load_photographs
from recipes import VaeRecipe, arguments
from torch import Tensor, nn
from weights import APPEARANCE, initialise, vae_config

from svd_engine.config import VAEConfig
from svd_engine.vae import VAE, TemporalDecoder

DEVIATION = math.exp(0.5 * LOG_VARIANCE)  # of the posterior


@dataclass(frozen=True)
class Crops:
    """Small clips."""

    recipe: VaeRecipe
    code: LinearCode
    photographs: list[Tensor]

    def draw(self, step: int) -> Batch:
        """The clips of a step: frames (clips, F, 3, H, W), and latents (clips, F, C, h, w)."""
        rng = generator(1, step)
        clips, frames, side = self.recipe.shapes[step % len(self.recipe.shapes)]
        times = torch.arange(frames).float()
        drawn = [draw_clip(self.photographs, times, (side, side), rng) for _ in range(clips)]
        latents = torch.stack([encode_film(self.code, clip) for clip in drawn])
        latents = latents + DEVIATION * torch.randn(latents.shape, generator=rng)
        latents[:, :, APPEARANCE:] = 0  # pixels do not depend on how far they have come
        return {"frames": torch.stack([clip.frames for clip in drawn]), "latents": latents}


def losses(decoder: TemporalDecoder, frames: Tensor, latents: Tensor) -> Batch:
    """The colours' squared and absolute error. frames: (clips, F, 3, H, W)."""
    pictures = frames.flatten(0, 1)
    decoded = decoder(latents.flatten(0, 1), frames=frames.shape[1])
    squared = F.mse_loss(decoded, pictures)
    error = (decoded - pictures).detach().pow(2).mean((1, 2, 3))
    return {
        "loss": squared + 0.1 * F.l1_loss(decoded, pictures),
        "psnr": 10 * (4 / error).log10().mean(),
    }


def main() -> None:
    recipe, out, device = arguments(__doc__)
    code = load_code(out, recipe.code.schedule.steps)
    crops = Crops(recipe.vae, code, load_photographs())
    vae = initialise(VAE(VAEConfig.model_validate(vae_config())), generator(0))
    begin_vae(vae, code)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    train(
        "vae",
        out,
        nn.ModuleDict({"vae": vae}).to(device),
        recipe.vae.schedule,
        crops.draw,
        lambda batch: losses(vae.decoder, batch["frames"], batch["latents"]),
        recipe.workers,
    )


if __name__ == "__main__":
    main()
