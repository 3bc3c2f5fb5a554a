"""Pictures to film: cuts of photographs, and procedural ones.

A picture is (3, SIDE, SIDE): in [-1, 1], or uint8 in an album. The nth of an album depends on n
alone.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from loop import generator
from PIL import Image, ImageDraw
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

FOLDER = Path(__file__).parent / "photographs"
SIDE = 384  # pixels
ALBUM = "pictures.pt"


@dataclass(frozen=True)
class Album(Dataset[Tensor]):
    """So many pictures."""

    photographs: list[Image.Image]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Tensor:
        picture = draw_picture(self.photographs, generator(9, number))
        return ((picture + 1) * 127.5).round().to(torch.uint8)


def draw_album(count: int, workers: int) -> Tensor:
    """(count, 3, SIDE, SIDE), drawn in so many processes; 0 for this one."""
    drawn = DataLoader(Album(load_photographs(), count), batch_size=None, num_workers=workers)
    album = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    for number, picture in enumerate(drawn):
        album[number] = picture
    return album


def load_album(folder: Path, device: torch.device) -> Tensor:
    """A run's; SystemExit before it is drawn."""
    path = folder / ALBUM
    if not path.exists():
        raise SystemExit(f"{path}: no such file; run draw_pictures.py first")
    album: Tensor = torch.load(path, weights_only=True)
    return album.to(device)


def load_photographs() -> list[Image.Image]:
    """The photographs beside this file."""
    return [Image.open(path).convert("RGB") for path in sorted(FOLDER.glob("*.jpg"))]


def draw_picture(photographs: list[Image.Image], rng: Generator) -> Tensor:
    """A cut of a photograph (two times in three), leaves that cover one another, or clouds."""
    if flip(rng, 2 / 3):
        return cut(photographs[integer(rng, 0, len(photographs))], rng)
    return dead_leaves(rng) if flip(rng, 2 / 3) else clouds(rng)


def cut(photograph: Image.Image, rng: Generator) -> Tensor:
    """A square of it, scaled."""
    side = uniform(rng, 0.7, 1.0) * min(photograph.size)
    left, top = (uniform(rng, 0, length - side) for length in photograph.size)
    box = (left, top, left + side, top + side)
    return _tensor(photograph.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box))


def pick(album: Tensor, count: int, rng: Generator) -> Tensor:
    """(count, 3, SIDE, SIDE) in [-1, 1]: some of them, half of them mirrored, in other colours."""
    picked = album[torch.randint(len(album), (count,), generator=rng, device=rng.device)]
    chance = torch.rand(5, count, 1, 1, 1, generator=rng, device=rng.device)
    picked = torch.where(chance[0] < 0.5, picked, picked.flip(-1)) / 127.5 - 1
    grey = picked.mean(1, keepdim=True)
    picked = grey + (0.5 + 0.8 * chance[1]) * (picked - grey)
    # Another hue, in one case of eight.
    order = torch.rand(count, 3, generator=rng, device=rng.device).argsort(1)
    order = torch.where(chance[2].flatten(1) < 1 / 8, order, torch.arange(3, device=rng.device))
    picked = picked.gather(1, order[..., None, None].expand_as(picked))
    return ((0.7 + 0.45 * chance[3]) * picked + 0.4 * (chance[4] - 0.5)).clamp(-1, 1)


def uniform(rng: Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=rng).item()


def integer(rng: Generator, low: int, high: int) -> int:
    """One of low, ..., high - 1."""
    return int(torch.randint(low, high, (), generator=rng))


def flip(rng: Generator, chance: float) -> bool:
    return uniform(rng, 0, 1) < chance


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


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
    leaves = _tensor(image)
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
