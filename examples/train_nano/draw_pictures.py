"""Draw the pictures that all films of a run are of (see `pictures.py`).

python examples/train_nano/draw_pictures.py --recipe cpu --out runs/nano
"""

import os
from pathlib import Path

import torch
from pictures import draw_pictures
from recipes import arguments
from torch import Tensor

NAME = "pictures.pt"


def load_pictures(folder: Path, device: torch.device) -> Tensor:
    """A run's pictures; SystemExit before they are drawn."""
    path = folder / NAME
    if not path.exists():
        raise SystemExit(f"{path}: no such file; run draw_pictures.py first")
    pictures: Tensor = torch.load(path, weights_only=True)
    return pictures.to(device)


def main() -> None:
    recipe, out, _ = arguments(__doc__)
    path, scratch = out / NAME, out / f"{NAME}.new"
    if not path.exists():
        torch.save(draw_pictures(recipe.pictures, os.cpu_count() or 1), scratch)
        scratch.replace(path)
    print(f"{path}: {recipe.pictures} pictures")


if __name__ == "__main__":
    main()
