"""Train the UNet, and with it CLIP's small tower, to say what is noise in a clip's latents.

    python examples/train_nano/train_unet.py --recipe cpu --out runs/nano

The objective is SVD's (Blattmann et al. 2023, appendix D): v-prediction at noise levels drawn from
a log-normal distribution, told of the picture by its latent along the channels and its embedding,
each of which is left out at times, so that guidance has something to lead away from.

A latent says how far each place has moved, beside how it looks. Most of which way the camera goes
can then be told from much noise by a mean, and the frames follow; without, it takes a search for
the picture in the noise, which a small network learns too slowly. (Chefer et al. 2025, "VideoJAM",
have a large one predict motion along with the frames, for the same reason.)
"""

import math

import torch
from begin import begin_unet
from camera import draw_clip, draw_stills
from latents import LinearEncoder
from loop import generator, loader, train
from pictures import flip, load_photographs
from recipes import UnetRecipe, arguments
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset
from weights import APPEARANCE, FRAMES, clip_config, initialise, load_vae, unet_config

from svd_engine.clip import build_image_encoder, embed
from svd_engine.config import UNetConfig
from svd_engine.image import blur, shrink
from svd_engine.tiny import PREPROCESSOR
from svd_engine.unet import UNet

SIGMA_MEAN, SIGMA_DEVIATION = 1.0, 1.4  # of ln(sigma): P_mean and P_std; SVD has 1.0 and 1.6
AUGMENTATION_MEAN, AUGMENTATION_DEVIATION = -3.0, 1.0  # of ln(noise_aug_strength)
FIT_TO = 64  # pictures that the linear encoder is fitted to
BOTH_LEFT_OUT, ONE_LEFT_OUT = 0.1, 0.05  # chances: latent and embedding; each of them alone

Batch = dict[str, Tensor]


class Batches(Dataset[Batch]):
    """Films with their noise, a batch an item; the films of a batch have the same size."""

    def __init__(
        self, recipe: UnetRecipe, encode: LinearEncoder, photographs: list[Tensor], start: int
    ) -> None:
        self.recipe, self.encode, self.photographs = recipe, encode, photographs
        self.start = start

    def __len__(self) -> int:
        return self.recipe.schedule.steps - self.start

    def __getitem__(self, item: int) -> Batch:
        step = self.start + item
        rng, phase = generator(5, step), self.recipe.phase(step)
        size = phase.sizes[step % len(phase.sizes)]
        examples = [self._draw(size, rng) for _ in range(phase.batch)]
        return {key: torch.stack([one[key] for one in examples]) for key in examples[0]}

    def _draw(self, size: tuple[int, int], rng: Generator) -> Batch:
        """A film, and all that is drawn for it."""
        clip = draw_clip(self.photographs, FRAMES, size, rng)
        latents = self.encode(clip)
        sigma, augmentation = torch.randn(2, generator=rng).tolist()
        strength = math.exp(AUGMENTATION_MEAN + AUGMENTATION_DEVIATION * augmentation)
        no_latent = no_embedding = flip(rng, BOTH_LEFT_OUT)
        no_latent, no_embedding = (
            one | flip(rng, ONE_LEFT_OUT) for one in (no_latent, no_embedding)
        )
        # The encoder is linear: noise on the picture is this noise on its latent.
        noise = self.encode.gain * torch.randn(latents[0].shape, generator=rng)
        return {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=rng),
            "image_latent": latents[0] + strength * noise,
            "sigma": torch.tensor(math.exp(SIGMA_MEAN + SIGMA_DEVIATION * sigma)),
            "picture": clip.frames[0],
            "time_ids": torch.tensor([clip.fps - 1, clip.motion_bucket_id, strength]),
            "keep": torch.tensor([not no_latent, not no_embedding]).float(),
        }


def clip_input(pictures: Tensor) -> Tensor:
    """What CLIP's tower sees (B, 3, 224, 224) of pictures in [-1, 1], as the engine makes it."""
    mean, deviation = (
        torch.tensor(PREPROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std")
    )
    return ((shrink(blur(pictures)) + 1) / 2 - mean) / deviation


def losses(unet: UNet, tower: nn.Module, batch: Batch) -> Batch:
    """The mean squared error of v, over B clips of F frames."""
    latents, sigma = batch["latents"], batch["sigma"][:, None, None, None, None]
    image_latents = batch["keep"][:, :1, None, None] * batch["image_latent"]
    embedding = batch["keep"][:, 1:, None] * embed(tower, clip_input(batch["picture"]))
    noisy = latents + sigma * batch["noise"]
    scaled = noisy / (sigma**2 + 1).sqrt()
    sample = torch.cat([scaled, image_latents[:, None].expand_as(scaled)], dim=2)
    v = unet(sample, 0.25 * batch["sigma"].log(), embedding, batch["time_ids"])
    target = (sigma * latents - batch["noise"]) / -(sigma**2 + 1).sqrt()
    errors = (v - target).pow(2).mean((1, 3, 4))
    told = batch["keep"].amin(1) > 0
    return {"loss": errors.mean()} | _bands(errors.detach(), batch["sigma"], told)


def _bands(errors: Tensor, sigma: Tensor, told: Tensor) -> Batch:
    """The mean error at little, middling and much noise, where the model is told of the picture.

    errors: (B, C). Of how frames look, and of how far they have moved.
    """
    edges = {"low": (0.0, 1.0), "middle": (1.0, 8.0), "high": (8.0, float("inf"))}
    bands = {}
    for name, (low, high) in edges.items():
        inside = told & (sigma >= low) & (sigma < high)
        if inside.any():
            bands[name] = errors[inside, :APPEARANCE].mean()
            bands[f"{name} motion"] = errors[inside, APPEARANCE:].mean()
    return bands


def main() -> None:
    recipe, out, device = arguments(__doc__)
    photographs = load_photographs()
    encode = LinearEncoder(load_vae(out), draw_stills(photographs, FIT_TO, 128, generator(4)))
    unet = initialise(UNet(UNetConfig.model_validate(unet_config())), generator(6))
    begin_unet(unet)
    torch.manual_seed(7)  # transformers draws its weights from the global generator
    networks = nn.ModuleDict({"unet": unet, "image_encoder": build_image_encoder(clip_config())})
    networks.to(device)

    def loss(_step: int, batch: Batch) -> Batch:
        moved = {key: value.to(device) for key, value in batch.items()}
        return losses(unet, networks["image_encoder"], moved)

    train(
        "unet",
        out,
        networks,
        recipe.unet.schedule,
        lambda start: loader(Batches(recipe.unet, encode, photographs, start), recipe.workers),
        loss,
    )


if __name__ == "__main__":
    main()
