"""One process of a decode that several processes share.

`python -m tests.support.gang_member FOLDER RANK SIZE ADDRESS [dies|alone]`
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from svd_engine.sharded import Gang, decode_share, join_gang
from svd_engine.vae import VAE


class Mortal(Gang):
    """A gang member that kills itself at the third exchange of edges."""

    left = 3

    def edges(self, *frames: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), 9)
        return super().edges(*frames)


def main(folder: str, rank: str, size: str, address: str, how: str = "") -> None:
    config, weights, latents = torch.load(Path(folder) / "given.pt", weights_only=False)
    vae = VAE(config).eval()
    vae.load_state_dict(weights)
    limit_s = 3.0 if how == "alone" else 60.0
    where = int(rank), int(size), len(latents), address, torch.device("cpu"), limit_s
    with join_gang(*where) as gang:
        if how == "dies":
            gang.__class__ = Mortal
        torch.save(decode_share(vae, latents, gang), Path(folder) / f"share-{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
