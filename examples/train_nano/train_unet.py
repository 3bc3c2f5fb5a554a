"""Train the UNet, and with it CLIP's small tower, to say what is noise in a clip's latents.

    python examples/train_nano/train_unet.py --recipe gpu --out runs/nano

The objective is SVD's (Blattmann et al. 2023, appendix D): v-prediction at noise levels drawn from
a log-normal distribution, told of the picture by its latent along the channels and its embedding,
each of which is left out at times, so that guidance has something to lead away from.

A latent says how far each place has moved, beside how it looks. In much noise the camera's
direction can then be read off a mean of those channels, and the frames follow; without them the
picture would have to be found in the noise, which a small network learns too slowly. (Chefer et al.
2025, "VideoJAM", have a large one predict motion along with the frames, for the same reason.)

The first phase sees single frames and is told, nearly without noise, how far they have moved: more
pictures pass in the same time, and each teaches how to move one. Later phases see whole films.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from begin import begin_unet
from camera import draw_films
from latents import encode_films, encode_stills
from linear_code import LinearCode, load_code
from loop import Batch, compute_dtype, generator, train
from pictures import load_album
from recipes import Phase, UnetRecipe, arguments
from torch import Generator, Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from weights import APPEARANCE, FRAMES, initialise, unet_config

from svd_engine.clip import ImageEncoder, embed
from svd_engine.config import ClipConfig, UNetConfig
from svd_engine.picture_pixels import CLIP_SIDE
from svd_engine.tiny import CLIP_CONFIG, PREPROCESSOR
from svd_engine.unet import UNet

SIGMA_MEAN, SIGMA_DEVIATION = 1.5, 1.6  # of ln(sigma): P_mean and P_std; SVD has 1.0 and 1.6
AUGMENTATION_MEAN, AUGMENTATION_DEVIATION = -3.0, 1.0  # of ln(noise_aug_strength)
MOVED = 4.0  # root mean square of the displacement, in pixels
WHISPER = 0.1  # noise on the displacement of a frame alone, so that it need not be found first
BOTH_LEFT_OUT, ONE_LEFT_OUT = 0.1, 0.05  # chances: latent and embedding; each of them alone


@dataclass(frozen=True)
class Examples:
    """Films with their noise."""

    recipe: UnetRecipe
    code: LinearCode
    album: Tensor

    def draw(self, step: int) -> Batch:
        """The films of a step, whole, or each of some frames as a clip of its own."""
        rng, phase = generator(5, step, device=self.album.device), self.recipe.phase(step)
        size = phase.sizes[step % len(phase.sizes)]
        films = draw_films(self.album, draw_times(phase, rng), size, rng)
        latents = encode_films(self.code, films)
        first = latents[:, 0]
        told = torch.stack([films.fps - 1, films.motion_bucket_id], dim=1)
        if phase.alone:
            latents = latents[:, 1:].flatten(0, 1)[:, None]
            first, told = (x.repeat_interleave(phase.alone, dim=0) for x in (first, told))
        count = len(latents)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng, device=rng.device)

        noise = normal(*latents.shape)
        if phase.alone:
            noise[:, :, APPEARANCE:] *= WHISPER
        strength = (AUGMENTATION_MEAN + AUGMENTATION_DEVIATION * normal(count)).exp()
        # The encoder is linear: of noise on the picture it makes noise on the latent.
        on_image = encode_stills(self.code, normal(count, 3, *size))
        return {
            "latents": latents,
            "noise": noise,
            "image_latent": first + strength[:, None, None, None] * on_image,
            "sigma": (SIGMA_MEAN + SIGMA_DEVIATION * normal(count)).exp(),
            "picture": films.frames[:, 0],
            "time_ids": torch.cat([told, strength[:, None]], dim=1),
            "keep": _draw_kept(count, rng),
        }


def draw_times(phase: Phase, rng: Generator) -> Tensor:
    """(films, F): all of a film's frames, or the first and some others."""
    if not phase.alone:
        return torch.arange(FRAMES, device=rng.device).float().expand(phase.films, FRAMES)
    order = torch.rand(phase.films, FRAMES - 1, generator=rng, device=rng.device).argsort(1)
    return F.pad(1.0 + order[:, : phase.alone], (1, 0))


def _draw_kept(count: int, rng: Generator) -> Tensor:
    """(count, 2), of 0 and 1: whether the picture's latent is told, and its embedding."""
    chance = torch.rand(count, 3, generator=rng, device=rng.device)
    out = (chance[:, :1] < BOTH_LEFT_OUT) | (chance[:, 1:] < ONE_LEFT_OUT)
    return (~out).float()


def clip_input(pictures: Tensor) -> Tensor:
    """What the engine shows CLIP's tower, (B, 3, 224, 224), of pictures in [-1, 1].

    They are smaller than that: there is nothing to blur.
    """
    assert max(pictures.shape[-2:]) <= CLIP_SIDE
    large = F.interpolate(pictures, (CLIP_SIDE, CLIP_SIDE), mode="bicubic", align_corners=True)
    mean, deviation = (
        pictures.new_tensor(PREPROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std")
    )
    return ((large + 1) / 2 - mean) / deviation


def losses(unet: UNet, tower: nn.Module, batch: Batch) -> Batch:
    """The mean squared error of v, over B clips of F frames."""
    latents, sigma = batch["latents"], batch["sigma"][:, None, None, None, None]
    image_latents = batch["keep"][:, :1, None, None] * batch["image_latent"]
    embedding = embed(tower, clip_input(batch["picture"]))  # of each film
    embedding = embedding.repeat_interleave(len(latents) // len(embedding), dim=0)
    embedding = batch["keep"][:, 1:, None] * embedding
    noisy = latents + sigma * batch["noise"]
    scaled = noisy / (sigma**2 + 1).sqrt()
    sample = torch.cat([scaled, image_latents[:, None].expand_as(scaled)], dim=2)
    sample, embedding = sample.to(unet.dtype), embedding.to(unet.dtype)
    v = unet(sample, 0.25 * batch["sigma"].log(), embedding, batch["time_ids"]).float()
    target = (sigma * latents - batch["noise"]) / -(sigma**2 + 1).sqrt()
    errors = (v - target).pow(2).mean((1, 3, 4))
    told = batch["keep"].amin(1) > 0
    moved = errors[:, APPEARANCE:] * _motion_weight(batch["sigma"])
    loss = torch.cat([errors[:, :APPEARANCE], moved], dim=1).mean()
    return {"loss": loss} | _bands(errors.detach(), batch["sigma"], told)


def _motion_weight(sigma: Tensor) -> Tensor:
    """(B, 1). As if v were of data whose deviation is MOVED (Karras et al. 2022, table 1)."""
    return ((sigma**2 + MOVED**2) / (MOVED**2 * (sigma**2 + 1)))[:, None]


def _bands(errors: Tensor, sigma: Tensor, told: Tensor) -> Batch:
    """The mean error at little, middling and much noise, where the model is told of the picture.

    errors: (B, C). Of how frames look, and of how far they have moved.
    """
    edges = {"low": (0.0, 1.0), "middle": (1.0, 8.0), "high": (8.0, float("inf"))}
    bands = {}
    for name, (low, high) in edges.items():
        inside = (told & (sigma >= low) & (sigma < high)).float()
        means = (inside @ errors) / inside.sum()  # not a number where there is none
        bands[name] = means[:APPEARANCE].mean()
        bands[f"{name} motion"] = means[APPEARANCE:].mean()
    return bands


def main() -> None:
    recipe, out, device = arguments(__doc__)
    code = load_code(out, recipe.code.schedule.steps).to(device)
    examples = Examples(recipe.unet, code, load_album(out, device))
    unet = initialise(UNet(UNetConfig.model_validate(unet_config())), generator(6))
    begin_unet(unet)
    torch.manual_seed(7)  # transformers draws its weights from the global generator
    drawn = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_CONFIG))
    tower = ImageEncoder(ClipConfig.model_validate(CLIP_CONFIG))
    tower.load_state_dict(drawn.state_dict())
    train(
        "unet",
        out,
        nn.ModuleDict({"unet": unet, "image_encoder": tower}).to(device),
        recipe.unet.schedule,
        examples.draw,
        lambda batch: losses(unet, tower, batch),
        compute_dtype(device),
    )


if __name__ == "__main__":
    main()
