"""Train the VAE's decoder, which sees a few frames at a time.

    python examples/train_nano/train_vae.py --recipe gpu --out runs/nano

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
from camera import draw_films
from latents import encode_films
from linear_code import LinearCode, load_code
from loop import Batch, compute_dtype, generator, train
from pictures import load_album
from recipes import VaeRecipe, arguments
from torch import Tensor, nn
from weights import APPEARANCE, initialise, vae_config

from svd_engine.config import VAEConfig
from svd_engine.vae import VAE, TemporalDecoder

DEVIATION = math.exp(0.5 * LOG_VARIANCE)  # of the posterior


@dataclass(frozen=True)
class SmallFilms:
    """Films of a few frames."""

    recipe: VaeRecipe
    code: LinearCode
    album: Tensor

    def draw(self, step: int) -> Batch:
        """The films of a step: frames (N, F, 3, H, W), and latents (N, F, C, h, w)."""
        device = self.album.device
        rng = generator(1, step, device=device)
        count, frames, side = self.recipe.shapes[step % len(self.recipe.shapes)]
        times = torch.arange(frames, device=device).float().expand(count, frames)
        films = draw_films(self.album, times, (side, side), rng)
        latents = encode_films(self.code, films)
        noise = torch.randn(latents.shape, generator=rng, device=device)
        latents = latents + DEVIATION * noise
        latents[:, :, APPEARANCE:] = 0  # pixels do not depend on how far they have come
        return {"frames": films.frames, "latents": latents}


def losses(decoder: TemporalDecoder, frames: Tensor, latents: Tensor) -> Batch:
    """The colours' squared and absolute error. frames: (N, F, 3, H, W)."""
    pictures = frames.flatten(0, 1)
    latents = latents.movedim(2, -1).contiguous().to(decoder.conv_in.weight.dtype)
    decoded = decoder(latents).movedim(-1, 2).flatten(0, 1).float()
    squared = F.mse_loss(decoded, pictures)
    error = (decoded - pictures).detach().pow(2).mean((1, 2, 3))
    return {
        "loss": squared + 0.1 * F.l1_loss(decoded, pictures),
        "psnr": 10 * (4 / error).log10().mean(),
    }


def main() -> None:
    recipe, out, device = arguments(__doc__)
    code = load_code(out, recipe.code.schedule.steps).to(device)
    films = SmallFilms(recipe.vae, code, load_album(out, device))
    vae = initialise(VAE(VAEConfig.model_validate(vae_config())), generator(0)).to(device)
    begin_vae(vae, code)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    train(
        "vae",
        out,
        nn.ModuleDict({"vae": vae}),
        recipe.vae.schedule,
        films.draw,
        lambda batch: losses(vae.decoder, batch["frames"], batch["latents"]),
        compute_dtype(device),
    )


if __name__ == "__main__":
    main()
