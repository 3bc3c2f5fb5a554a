"""Pictures to film: ten photographs, and procedural ones drawn anew each time.

A picture is (3, H, W) in [-1, 1]; all randomness comes from the generator passed in.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Generator, Tensor

FOLDER = Path(__file__).parent / "photographs"
SIDE = 512  # of a procedural picture, in pixels


def load_photographs() -> list[Tensor]:
    """The photographs beside this file."""
    photographs = []
    for path in sorted(FOLDER.glob("*.jpg")):
        pixels = np.array(Image.open(path).convert("RGB"))
        photographs.append(torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1)
    return photographs


def draw_picture(photographs: list[Tensor], rng: Generator) -> Tensor:
    """A photograph (two times in three), leaves that cover one another, or a cloudscape."""
    if flip(rng, 2 / 3):
        picture = photographs[integer(rng, 0, len(photographs))]
        if flip(rng, 0.5):
            picture = picture.flip(-1)
    else:
        picture = dead_leaves(rng) if flip(rng, 2 / 3) else clouds(rng)
    return recolour(picture, rng)


def uniform(rng: Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=rng).item()


def integer(rng: Generator, low: int, high: int) -> int:
    """One of low, ..., high - 1."""
    return int(torch.randint(low, high, (), generator=rng))


def flip(rng: Generator, chance: float) -> bool:
    return uniform(rng, 0, 1) < chance


def recolour(picture: Tensor, rng: Generator) -> Tensor:
    """Another contrast, brightness and saturation, and in one case of eight another hue."""
    grey = picture.mean(0, keepdim=True)
    picture = grey + uniform(rng, 0.5, 1.3) * (picture - grey)
    if flip(rng, 1 / 8):
        picture = picture[torch.randperm(3, generator=rng)]
    return (uniform(rng, 0.7, 1.15) * picture + uniform(rng, -0.2, 0.2)).clamp(-1, 1)


def fractal(rng: Generator, channels: int, roughness: float) -> Tensor:
    """(C, SIDE, SIDE): noise whose amplitude falls with frequency; its deviation is 1."""
    noise = torch.zeros(channels, SIDE, SIDE)
    for octave in range(8):
        grid = torch.randn(1, channels, 2 + 2**octave, 2 + 2**octave, generator=rng)
        layer = F.interpolate(grid, (SIDE, SIDE), mode="bicubic", align_corners=False)
        noise += layer[0] * 2.0 ** (-roughness * octave)
    return (noise - noise.mean()) / noise.std()


def clouds(rng: Generator) -> Tensor:
    """Fractal noise through a random palette, darker or lighter towards the ground."""
    height = fractal(rng, 1, uniform(rng, 0.6, 1.4))
    height = height + uniform(rng, -2, 2) * torch.linspace(-1, 1, SIDE)[:, None]
    palette = 2 * torch.rand(3, 6, generator=rng) - 1
    place = (height.sigmoid() * 4.999).clamp(0, 4.999)
    lower = place.long()
    share = place - lower
    return palette[:, lower[0]] * (1 - share) + palette[:, lower[0] + 1] * share


def dead_leaves(rng: Generator) -> Tensor:
    """Shapes of all sizes that cover one another: photographs have edges like these.

    Lee, Mumford and Huang, "Occlusion Models for Natural Images", 2001.
    """
    image = Image.new("RGB", (SIDE, SIDE), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(integer(rng, 20, 200)):
        radius = 6 / max(uniform(rng, 0, 1), 0.03)  # sizes fall off as a power, as in nature
        x, y = uniform(rng, 0, SIDE), uniform(rng, 0, SIDE)
        draw.polygon(_leaf(rng, x, y, radius), fill=_colour(rng))
    leaves = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    texture = fractal(rng, 1, uniform(rng, 0.2, 1.0))
    return (leaves + uniform(rng, 0, 0.25) * texture).clamp(-1, 1)


def _leaf(rng: Generator, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The corners of a polygon: a triangle, a rectangle, or nearly an ellipse."""
    corners, turn = (3, 4, 24)[integer(rng, 0, 3)], uniform(rng, 0, 2 * math.pi)
    flat = uniform(rng, 0.3, 1.0)
    points = []
    for i in range(corners):
        a = 2 * math.pi * i / corners
        u, v = radius * math.cos(a), flat * radius * math.sin(a)
        points.append(
            (
                x + u * math.cos(turn) - v * math.sin(turn),
                y + u * math.sin(turn) + v * math.cos(turn),
            )
        )
    return points


def _colour(rng: Generator) -> tuple[int, int, int]:
    red, green, blue = torch.randint(0, 256, (3,), generator=rng).tolist()
    return red, green, blue
