"""How much to train: on two CPU cores, on a GPU, or just to see whether it runs."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from loop import Schedule


@dataclass(frozen=True)
class CodeRecipe:
    """Each step sees `batch` of so many stills."""

    schedule: Schedule
    stills: int
    batch: int


@dataclass(frozen=True)
class VaeRecipe:
    """Each step sees films of one of the shapes, in turn: (films, frames, side in pixels)."""

    schedule: Schedule
    shapes: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Phase:
    """So many steps, of `films` each, of (height, width) in turn.

    alone: so many frames of a film are seen, each as a clip of its own that is told how far it has
    moved; 0 for whole films.
    """

    steps: int
    films: int
    sizes: tuple[tuple[int, int], ...]
    alone: int = 0


@dataclass(frozen=True)
class UnetRecipe:
    """The phases, one after another: how a frame moves, then small films, then whole ones."""

    learning_rate: float
    phases: tuple[Phase, ...]

    @property
    def schedule(self) -> Schedule:
        return Schedule(sum(phase.steps for phase in self.phases), self.learning_rate)

    def phase(self, step: int) -> Phase:
        """The one that a step belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise ValueError("the step is past the last phase")


@dataclass(frozen=True)
class Recipe:
    pictures: int  # that are filmed
    code: CodeRecipe
    vae: VaeRecipe
    unet: UnetRecipe


SMALL = ((64, 64),)
CODE = CodeRecipe(Schedule(steps=1500, learning_rate=4e-3), stills=2000, batch=16)
WHOLE = ((128, 128), (128, 128), (96, 160), (160, 96))

RECIPES = {
    "cpu": Recipe(
        pictures=1000,
        code=CODE,
        vae=VaeRecipe(
            Schedule(steps=400, learning_rate=1e-4), shapes=((2, 4, 64), (2, 4, 64), (1, 2, 128))
        ),
        unet=UnetRecipe(
            learning_rate=1e-3,
            phases=(Phase(5000, 6, SMALL, alone=4), Phase(3400, 3, SMALL), Phase(500, 1, WHOLE)),
        ),
    ),
    "gpu": Recipe(
        pictures=4000,
        code=CODE,
        vae=VaeRecipe(Schedule(steps=1550, learning_rate=5e-4), shapes=((24, 3, 128), (40, 6, 64))),
        unet=UnetRecipe(
            learning_rate=1.5e-3,
            phases=(
                Phase(600, 160, SMALL, alone=4),
                Phase(800, 160, SMALL),
                Phase(1800, 64, WHOLE),
            ),
        ),
    ),
    "trial": Recipe(
        pictures=3,
        code=CodeRecipe(Schedule(steps=4, learning_rate=4e-3), stills=8, batch=4),
        vae=VaeRecipe(Schedule(steps=1, learning_rate=1e-4), shapes=((1, 2, 64),)),
        unet=UnetRecipe(
            learning_rate=1e-3,
            phases=(Phase(1, 1, SMALL, alone=2), Phase(1, 1, SMALL), Phase(1, 1, WHOLE)),
        ),
    ),
}


def arguments(description: str | None) -> tuple[Recipe, Path, torch.device]:
    """The recipe, the folder of the run, and the device, from the command line.

    A folder is of one recipe: SystemExit for another than it was begun with.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=sorted(RECIPES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    options = parser.parse_args()
    recipe = RECIPES[options.recipe]
    _keep(recipe, options.out / "recipe.json")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{options.out}: recipe {options.recipe}, on {device.type}", flush=True)
    return recipe, options.out, device


def _keep(recipe: Recipe, path: Path) -> None:
    text = json.dumps(asdict(recipe), indent=2) + "\n"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    elif path.read_text() != text:
        raise SystemExit(f"{path.parent} was begun with another recipe ({path.name}): take another")
