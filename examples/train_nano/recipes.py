"""How much to train: one recipe for two CPU cores, one for a GPU."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from loop import Schedule


@dataclass(frozen=True)
class VaeRecipe:
    """Each step sees `clips` clips of `frames` frames of side x side pixels, in turn."""

    schedule: Schedule
    shapes: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class FilmRecipe:
    """So many clips, of (height, width) in turn."""

    clips: int
    frames: int
    sizes: tuple[tuple[int, int], ...] = ((128, 128), (128, 128), (96, 160), (160, 96))


@dataclass(frozen=True)
class UnetRecipe:
    """Each step sees `batch` films, at first no more than `short` frames of each."""

    schedule: Schedule
    batch: int
    short: int
    short_steps: int


@dataclass(frozen=True)
class Recipe:
    vae: VaeRecipe
    film: FilmRecipe
    unet: UnetRecipe
    workers: int  # processes that make the data


RECIPES = {
    "cpu": Recipe(
        vae=VaeRecipe(
            Schedule(steps=2200, learning_rate=1e-3), shapes=((2, 4, 64), (2, 4, 64), (1, 2, 128))
        ),
        film=FilmRecipe(clips=480, frames=14),
        unet=UnetRecipe(
            Schedule(steps=1700, learning_rate=1e-3), batch=2, short=8, short_steps=1000
        ),
        workers=0,
    ),
}


def arguments(description: str | None) -> tuple[Recipe, Path, torch.device]:
    """The recipe, the folder of the run, and the device, from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=sorted(RECIPES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return RECIPES[options.recipe], options.out, device
