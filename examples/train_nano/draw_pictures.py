"""Draw the pictures that all films of a run are of (see `pictures.py`).

python examples/train_nano/draw_pictures.py --recipe gpu --out runs/nano
"""

import os

from loop import save
from pictures import ALBUM, draw_album
from recipes import arguments


def main() -> None:
    recipe, out, _ = arguments(__doc__)
    path = out / ALBUM
    if not path.exists():
        save(path, draw_album(recipe.pictures, os.cpu_count() or 1))
    print(f"{path}: {recipe.pictures} pictures")


if __name__ == "__main__":
    main()
