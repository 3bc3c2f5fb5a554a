"""Learn the linear code that the VAE begins as (see `linear_code.py`).

    python examples/train_nano/train_code.py --recipe gpu --out runs/nano

The stills are drawn once: there are far fewer weights than pixels to learn from.
"""

import torch
from camera import draw_stills
from linear_code import LinearCode
from loop import Batch, generator, train
from pictures import load_album
from recipes import arguments
from torch import Tensor, nn

SIDE = 64
AT_ONCE = 8  # stills drawn together: for the memory's sake


def losses(code: LinearCode, pictures: Tensor) -> Batch:
    """The colours' squared error."""
    error = (code.decode(code.encode(pictures)) - pictures).pow(2)
    psnr = 10 * (4 / error.detach().mean((1, 2, 3))).log10().mean()
    return {"loss": error.mean(), "psnr": psnr}


def main() -> None:
    recipe, out, device = arguments(__doc__)
    album = load_album(out, device)
    rng = generator(4, device=device)
    stills = torch.cat(
        [draw_stills(album, AT_ONCE, SIDE, rng) for _ in range(recipe.code.stills // AT_ONCE)]
    )
    code = LinearCode().to(device).begin(stills, generator(0, device=device))

    def draw(step: int) -> Batch:
        rng = generator(1, step, device=device)
        chosen = torch.randint(len(stills), (recipe.code.batch,), generator=rng, device=device)
        return {"pictures": stills[chosen]}

    train(
        "code",
        out,
        nn.ModuleDict({"code": code}),
        recipe.code.schedule,
        draw,
        lambda batch: losses(code, batch["pictures"]),
    )


if __name__ == "__main__":
    main()
