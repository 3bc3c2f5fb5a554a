"""Learn the linear code that the VAE begins as (see `linear_code.py`).

    python examples/train_nano/train_code.py --recipe cpu --out runs/nano

The stills are drawn once: there are far fewer weights than pixels to learn from.
"""

import torch
from camera import draw_stills
from linear_code import LinearCode
from loop import generator, loader, train
from pictures import load_photographs
from recipes import CodeRecipe, arguments
from torch import Tensor, nn
from torch.utils.data import Dataset

SIDE = 64


class Picks(Dataset[Tensor]):
    """Batches of the stills: (batch, 3, SIDE, SIDE)."""

    def __init__(self, recipe: CodeRecipe, stills: Tensor, start: int) -> None:
        self.recipe, self.stills, self.start = recipe, stills, start

    def __len__(self) -> int:
        return self.recipe.schedule.steps - self.start

    def __getitem__(self, item: int) -> Tensor:
        rng = generator(1, self.start + item)
        return self.stills[torch.randint(len(self.stills), (self.recipe.batch,), generator=rng)]


def main() -> None:
    recipe, out, device = arguments(__doc__)
    stills = draw_stills(load_photographs(), recipe.code.stills, SIDE, generator(4))
    code = LinearCode().begin(stills, generator(0)).to(device)

    def loss(_step: int, pictures: Tensor) -> dict[str, Tensor]:
        pictures = pictures.to(device)
        error = (code.decode(code.encode(pictures)) - pictures).pow(2)
        psnr = 10 * (4 / error.detach().mean((1, 2, 3))).log10().mean()
        return {"loss": error.mean(), "psnr": psnr}

    train(
        "code",
        out,
        nn.ModuleDict({"code": code}),
        recipe.code.schedule,
        lambda start: loader(Picks(recipe.code, stills, start), 0),
        loss,
    )


if __name__ == "__main__":
    main()
