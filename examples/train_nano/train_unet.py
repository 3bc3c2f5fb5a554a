"""Train the UNet, and with it CLIP's small tower, to say what is noise in a clip's latents.

    python examples/train_nano/train_unet.py --recipe cpu --out runs/nano

The objective is SVD's (Blattmann et al. 2023, appendix D): v-prediction at noise levels drawn from
a log-normal distribution, told of the picture by its latent along the channels and its embedding,
each of which is left out at times, so that guidance has something to lead away from.
"""

import math
from pathlib import Path

import torch
from begin import begin_unet
from film import film_path
from loop import generator, loader, train
from pictures import flip, integer
from recipes import Phase, Recipe, arguments
from safetensors.torch import load_file
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset
from weights import clip_config, initialise, load_vae, unet_config

from svd_engine.clip import build_image_encoder, embed
from svd_engine.config import UNetConfig
from svd_engine.image import blur, shrink
from svd_engine.tiny import PREPROCESSOR
from svd_engine.unet import UNet
from svd_engine.vae import VAE

SIGMA_MEAN, SIGMA_DEVIATION = 1.0, 1.4  # of ln(sigma): P_mean and P_std; SVD has 1.0 and 1.6
AUGMENTATION_MEAN, AUGMENTATION_DEVIATION = -3.0, 1.0  # of ln(noise_aug_strength)
BOTH_LEFT_OUT, ONE_LEFT_OUT = 0.1, 0.05  # chances: latent and embedding; each of them alone

Batch = dict[str, Tensor]


class Batches(Dataset[Batch]):
    """Films with their noise, a batch an item; the films of a batch have the same size."""

    def __init__(self, recipe: Recipe, folder: Path, start: int) -> None:
        self.recipe, self.folder, self.start = recipe, folder, start

    def __len__(self) -> int:
        return self.recipe.unet.schedule.steps - self.start

    def __getitem__(self, item: int) -> Batch:
        step = self.start + item
        rng, phase, films = generator(5, step), self.recipe.unet.phase(step), self.recipe.film
        sizes = len(films.sizes)
        kind = integer(rng, 0, sizes)
        examples = []
        for _ in range(phase.batch):
            number = kind + sizes * integer(rng, 0, films.clips // sizes)
            examples.append(draw_example(film_path(self.folder, number), phase, rng))
        return {key: torch.stack([one[key] for one in examples]) for key in examples[0]}


def draw_example(path: Path, phase: Phase, rng: Generator) -> Batch:
    """A film, or a part of it, forwards or backwards, and all that is drawn for it."""
    film = load_file(path)
    latents, picture = film["latents"].float(), film["ends"][0]
    if flip(rng, 0.5):
        latents, picture = latents.flip(0), film["ends"][1]
    latents = latents[: phase.frames]
    if phase.window is not None:
        y, x = (integer(rng, 0, side - phase.window + 1) for side in latents.shape[-2:])
        latents = latents[..., y : y + phase.window, x : x + phase.window]
    fps, bucket = film["asked"].tolist()
    sigma, augmentation = torch.randn(2, generator=rng).tolist()
    strength = math.exp(AUGMENTATION_MEAN + AUGMENTATION_DEVIATION * augmentation)
    no_latent = no_embedding = flip(rng, BOTH_LEFT_OUT)
    no_latent, no_embedding = (one | flip(rng, ONE_LEFT_OUT) for one in (no_latent, no_embedding))
    return {
        "latents": latents,
        "noise": torch.randn(latents.shape, generator=rng),
        "augmentation": strength * torch.randn(latents[0].shape, generator=rng),
        "sigma": torch.tensor(math.exp(SIGMA_MEAN + SIGMA_DEVIATION * sigma)),
        "picture": picture / 127.5 - 1,
        "time_ids": torch.tensor([fps - 1, bucket, strength]),
        "keep": torch.tensor([not no_latent, not no_embedding]).float(),
    }


@torch.no_grad()
def noise_gain(vae: VAE) -> Tensor:
    """How loud unit noise on the pixels is in each channel of the latent: (C, 1, 1).

    The encoder is linear, and its components are orthogonal: noise added to the latent by these
    is noise added to the picture.
    """
    noise = torch.randn(8, 3, 128, 128, generator=generator(8)).to(vae.quant_conv.weight)
    heard = vae.encode(noise)[0] - vae.encode(torch.zeros_like(noise))[0]
    return heard.std((0, 2, 3))[:, None, None]


def clip_input(pictures: Tensor) -> Tensor:
    """What CLIP's tower sees (B, 3, 224, 224) of pictures in [-1, 1], as the engine makes it."""
    mean, deviation = (
        torch.tensor(PREPROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std")
    )
    return ((shrink(blur(pictures)) + 1) / 2 - mean) / deviation


def losses(unet: UNet, tower: nn.Module, gain: Tensor, batch: Batch) -> Batch:
    """The mean squared error of v, over B clips of F frames. gain: `noise_gain`."""
    latents, sigma = batch["latents"], batch["sigma"][:, None, None, None, None]
    image_latent = latents[:, 0] + gain * batch["augmentation"]
    image_latents = batch["keep"][:, :1, None, None] * image_latent
    embedding = batch["keep"][:, 1:, None] * embed(tower, clip_input(batch["picture"]))
    noisy = latents + sigma * batch["noise"]
    scaled = noisy / (sigma**2 + 1).sqrt()
    sample = torch.cat([scaled, image_latents[:, None].expand_as(scaled)], dim=2)
    v = unet(sample, 0.25 * batch["sigma"].log(), embedding, batch["time_ids"])
    target = (sigma * latents - batch["noise"]) / -(sigma**2 + 1).sqrt()
    errors = (v - target).pow(2).mean((1, 2, 3, 4))
    told = batch["keep"].amin(1) > 0
    return {"loss": errors.mean()} | _bands(errors.detach(), batch["sigma"], told)


def _bands(errors: Tensor, sigma: Tensor, told: Tensor) -> Batch:
    """The mean error at little, middling and much noise, where the model is told of the picture."""
    edges = {"low": (0.0, 1.0), "middle": (1.0, 8.0), "high": (8.0, float("inf"))}
    bands = {}
    for name, (low, high) in edges.items():
        inside = told & (sigma >= low) & (sigma < high)
        if inside.any():
            bands[name] = errors[inside].mean()
    return bands


def main() -> None:
    recipe, out, device = arguments(__doc__)
    gain = noise_gain(load_vae(out)).to(device)
    unet = initialise(UNet(UNetConfig.model_validate(unet_config())), generator(6))
    begin_unet(unet)
    torch.manual_seed(7)  # transformers draws its weights from the global generator
    networks = nn.ModuleDict({"unet": unet, "image_encoder": build_image_encoder(clip_config())})
    networks.to(device)

    def loss(_step: int, batch: Batch) -> Batch:
        moved = {key: value.to(device) for key, value in batch.items()}
        return losses(unet, networks["image_encoder"], gain, moved)

    train(
        "unet",
        out,
        networks,
        recipe.unet.schedule,
        lambda start: loader(Batches(recipe, out, start), recipe.workers),
        loss,
    )


if __name__ == "__main__":
    main()
