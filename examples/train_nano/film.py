"""Film the clips that the UNet learns from, and keep their latents.

    python examples/train_nano/film.py --recipe cpu --out runs/nano

The encoder costs as much as a training step, and does not change any more: each clip is encoded
once. Clips that are there already are left as they are, so it can be stopped and started again.
"""

from pathlib import Path

import torch
from camera import draw_clip
from loop import generator, loader
from pictures import load_photographs
from recipes import FilmRecipe, arguments
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset
from weights import load_vae


class Films(Dataset[tuple[int, Tensor, Tensor]]):
    """Clips that are not there yet: their number, frames, and (fps, motion_bucket_id)."""

    def __init__(self, recipe: FilmRecipe, folder: Path) -> None:
        self.recipe, self.photographs = recipe, load_photographs()
        self.missing = [n for n in range(recipe.clips) if not film_path(folder, n).exists()]

    def __len__(self) -> int:
        return len(self.missing)

    def __getitem__(self, item: int) -> tuple[int, Tensor, Tensor]:
        number = self.missing[item]
        size = self.recipe.sizes[number % len(self.recipe.sizes)]
        clip = draw_clip(self.photographs, self.recipe.frames, size, generator(3, number))
        return number, clip.frames, torch.tensor([clip.fps, clip.motion_bucket_id])


def film_path(folder: Path, number: int) -> Path:
    return folder / "films" / f"{number:06d}.safetensors"


@torch.no_grad()
def main() -> None:
    recipe, out, device = arguments(__doc__)
    vae = load_vae(out).to(device)
    (out / "films").mkdir(exist_ok=True)
    films = Films(recipe.film, out)
    for number, frames, asked in loader(films, recipe.workers):
        latents, _ = vae.encode(frames.to(device))
        film = {
            "latents": latents.cpu().half().contiguous(),
            # Played backwards a clip is another one: both its ends are first frames.
            "ends": ((frames[[0, -1]] + 1) * 127.5).round().to(torch.uint8),
            "asked": asked,
        }
        path = film_path(out, number)
        save_file(film, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        if number % 20 == 0:
            print(f"{number} of {recipe.film.clips} clips", flush=True)


if __name__ == "__main__":
    main()
