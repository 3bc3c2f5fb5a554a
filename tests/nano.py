"""Measurements of the quality of `nano`'s clips, over pictures that it was not trained on.

    python -m tests.nano [--model FOLDER] [--steps 10] [--out SHEET.png]

Frames are uint8 arrays (F, H, W, 3), as in clips. Flow is Farneback's, in pixels per frame.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from itertools import islice, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from svd_engine import Clip, Engine, RenderParams
from svd_engine.picture_pixels import fit_picture, vae_pixels
from svd_engine.recipe import Recipe, to_uint8

ROOT = Path(__file__).parent.parent
TRAINING = ROOT / "examples/train_nano"
SIDE = 128
BUCKETS = (20, 100, 200)
Frames = np.ndarray


def held_out() -> dict[str, Image.Image]:
    """Eight pictures, cropped to squares but not resized."""
    paths = [*(ROOT / "examples/pictures").iterdir(), *(ROOT / "tests/pictures").iterdir()]
    found = {}
    for path in sorted(path for path in paths if path.suffix != ".md"):
        found[path.stem] = fit_picture(Image.open(path).convert("RGB"), SIDE, SIDE, "crop")
    return found


def psnr(a: Frames, b: Frames) -> float:
    """The peak signal-to-noise ratio in dB, of 8-bit levels."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def flows(frames: Frames) -> list[np.ndarray]:
    """The flow (H, W, 2) from each frame to the next."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    no_flow: Any = None  # which opencv's types do not know
    return [
        cv2.calcOpticalFlowFarneback(a, b, no_flow, 0.5, 3, 15, 3, 5, 1.2, 0)
        for a, b in pairwise(grey)
    ]


def motion(frames: Frames) -> float:
    """The mean length of the flow."""
    return float(np.mean([np.linalg.norm(flow, axis=-1) for flow in flows(frames)]))


def warping_error(frames: Frames, shown: Frames) -> float:
    """How far each frame of `shown` is, in levels, from the next one warped back onto it.

    The flow of `frames` warps it, so the error is large if `shown` is in another order.
    """
    y, x = np.mgrid[0 : frames.shape[1], 0 : frames.shape[2]].astype(np.float32)
    errors = []
    for flow, a, b in zip(flows(frames), shown, shown[1:], strict=False):
        back = cv2.remap(b, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
        inside = (x + flow[..., 0] >= 0) & (x + flow[..., 0] <= x.max())
        inside &= (y + flow[..., 1] >= 0) & (y + flow[..., 1] <= y.max())
        errors.append(np.abs(back.astype(float) - a.astype(float))[inside].mean())
    return float(np.mean(errors))


def shuffled(frames: Frames) -> Frames:
    """The same frames in another order, the same each time."""
    return frames[np.random.default_rng(0).permutation(len(frames))]


@cache
def training_module(name: str) -> ModuleType:
    """Import a module of the training scripts, whose folder is not a package."""
    sys.path.insert(0, str(TRAINING))
    module = import_module(name)
    sys.path.remove(str(TRAINING))
    return module


@dataclass(frozen=True)
class Nano:
    """A model's engine, and its results for the held-out pictures."""

    engine: Engine
    steps: int = 10
    side: int = SIDE  # the side of the clips, in pixels
    count: int = 8  # of the pictures
    _clips: dict[tuple[str, int], Clip] = field(default_factory=dict)

    @cached_property
    def pictures(self) -> dict[str, Image.Image]:
        return dict(islice(held_out().items(), self.count))

    @cached_property
    def shown(self) -> dict[str, Frames]:
        """The pictures as the VAE's input: (side, side, 3)."""
        size = (self.side, self.side)
        resized = Image.Resampling.LANCZOS
        return {name: np.asarray(p.resize(size, resized)) for name, p in self.pictures.items()}

    def clip(self, name: str, bucket: int) -> Frames:
        """Render a clip with a motion bucket."""
        return self._rendered(name, bucket).frames

    def render(self, name: str, recipe: Recipe | None = None, **asked: object) -> Frames:
        return self._render(name, recipe, **asked).frames

    def _rendered(self, name: str, bucket: int) -> Clip:
        if (name, bucket) not in self._clips:
            self._clips[name, bucket] = self._render(name, motion_bucket_id=bucket)
        return self._clips[name, bucket]

    def _render(self, name: str, recipe: Recipe | None = None, **asked: object) -> Clip:
        size = {"width": self.side, "height": self.side}
        params = RenderParams(**size, **{"num_inference_steps": self.steps, **asked})
        return self.engine.render(self.pictures[name], params, recipe=recipe)

    def round_trip(self, name: str) -> float:
        """The PSNR of each picture after encoding and decoding."""
        return psnr(self.still(name, 1)[0], self.shown[name])

    @torch.no_grad()
    def still(self, name: str, frames: int) -> Frames:
        """The picture's latent, decoded as a clip of equal frames."""
        mean, _ = self.engine.vae.encode(vae_pixels(self.pictures[name], self.side, self.side))
        return to_uint8(self.engine.vae.decode(mean.repeat(frames, 1, 1, 1))).numpy()

    def first_frame(self, name: str) -> float:
        """The PSNR of the first frame against the picture."""
        return psnr(self.clip(name, 100)[0], self.shown[name])

    def nearest(self, name: str) -> str:
        """The name of the picture that is most like the first frame."""
        first = self.clip(name, 100)[0]
        return max(self.shown, key=lambda other: psnr(first, self.shown[other]))

    def motions(self, name: str) -> list[float]:
        """The mean flow for each of BUCKETS."""
        return [motion(self.clip(name, bucket)) for bucket in BUCKETS]

    def displacements(self, name: str) -> list[float]:
        """The displacement of the last frame's latents (RMS), divided by what was asked for."""
        speed = training_module("camera").speed
        moved = (self._rendered(name, bucket).latents[-1, -2:] for bucket in BUCKETS)
        lengths = [float(latents.square().sum(0).mean().sqrt()) for latents in moved]
        return [length / (13 * speed(b, 7)) for length, b in zip(lengths, BUCKETS, strict=True)]

    def filmed(self, name: str) -> list[float]:
        """The mean flow for each of BUCKETS if the training's camera films the picture at 7 fps."""
        camera = training_module("camera")
        picture = vae_pixels(self.pictures[name], *self.pictures[name].size)
        size, times, motions = (self.side, self.side), torch.arange(14.0)[None], []
        view, depth = camera.View(torch.tensor([0.9]), torch.zeros(1, 2)), torch.ones(1)
        for bucket in BUCKETS:
            rng = torch.Generator().manual_seed(0)
            distance = torch.tensor([camera.speed(bucket, 7) / (self.side / 2)])
            cameras = camera.draw_cameras(distance, 1.0, rng)
            films = camera.film(picture, cameras, times, size, view, depth)
            motions.append(motion(to_uint8(films[0]).numpy()))
        return motions

    def consistency(self, name: str) -> float:
        """The warping error, divided by that of shuffled frames."""
        clip = self.clip(name, 200)
        return warping_error(clip, clip) / warping_error(clip, shuffled(clip))

    def flicker(self, name: str) -> float:
        """How far frames of a still picture are from the mean of their neighbours, in levels."""
        frames = self.still(name, 6).astype(float)
        return float(np.abs(frames[1:-1] - (frames[:-2] + frames[2:]) / 2).mean())


def sheet(nano: Nano) -> Image.Image:
    """A contact sheet: a row of every third frame for each picture and motion bucket."""
    clips = [nano.clip(name, bucket) for name in nano.pictures for bucket in BUCKETS]
    rows = [np.concatenate(list(frames[::3]), axis=1) for frames in clips]
    return Image.fromarray(np.concatenate(rows))


def table(nano: Nano) -> Iterator[str]:
    columns: dict[str, Callable[[str], object]] = {
        "VAE, dB": nano.round_trip,
        "first frame, dB": nano.first_frame,
        "nearest to": nano.nearest,
        "flow at 20, 100, 200": nano.motions,
        "of films": nano.filmed,
        "displacement / asked": nano.displacements,
        "warping error / shuffled": nano.consistency,
        "flicker, levels": nano.flicker,
    }
    yield "| picture | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in nano.pictures:
        yield f"| {name} | " + " | ".join(_text(of(name)) for of in columns.values()) + " |"


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{number:.2f}" for number in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, help="a contact sheet of the clips")
    options = parser.parse_args(arguments)
    nano = Nano(Engine.from_pretrained(options.model), options.steps)
    for line in table(nano):
        print(line, flush=True)
    if options.out:
        sheet(nano).save(options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
