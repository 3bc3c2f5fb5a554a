"""Mistakes that no catalogue has, each planted in one tensor of a right trace, and their table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from svd_engine import Engine, RenderParams
from svd_engine.conformance.diagnose import Diagnosis
from svd_engine.conformance.replay import UNET
from svd_engine.conformance.report import relation_of
from svd_engine.conformance.traces import Trace, split_key
from svd_engine.schedule import euler_step
from tests.support.traced import diagnosed

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Planted:
    """A mistake in a tensor of a right trace. It is given the trace, and returns the tensor."""

    name: str
    key: str
    make: Callable[[Tensors], Tensor]
    says: str = ""  # words of its description; none if it is not expected to be described

    def into(self, right: Tensors) -> Trace:
        return Trace({key: self.make(right) if key == self.key else right[key] for key in right})


def same(name: str, key: str, change: Callable[[Tensor], Tensor], says: str = "") -> Planted:
    """A mistake that changes the right tensor."""
    return Planted(name, key, lambda right: change(right[key]), says)


def noise(like: Tensor, seed: int = 99) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def rho(sigmas: Tensor, power: float) -> Tensor:
    """Karras' spread between the same ends by another power."""
    ends = sigmas[0] ** (1 / power), sigmas[-2] ** (1 / power)
    ramp = torch.linspace(0, 1, len(sigmas) - 1)
    return torch.cat([(ends[0] + ramp * (ends[1] - ends[0])) ** power, torch.zeros(1)])


def guided(right: Tensors, step: int, scales: Callable[[Tensor], Tensor]) -> Tensor:
    halves = right[f"step.{step:03d}.model_output"].chunk(2)
    scale = scales(right["guidance"])[None, :, None, None, None]
    return halves[0] + scale * (halves[1] - halves[0])


def stepped(right: Tensors, step: int, begin: int, end: int, sign: int = 1) -> Tensor:
    sigmas, x = right["sigmas"], right[f"step.{step - 1:03d}.latents"]
    v = sign * right[f"step.{step:03d}.guided"]
    return euler_step(x, v, sigmas[begin], sigmas[end]).latents


def input_with(right: Tensors, of_latents: float = 1.0, of_picture: float = 1.0) -> Tensor:
    """A step's input with its two parts multiplied."""
    latents, picture = right["step.001.model_input"].chunk(2, dim=2)
    return torch.cat([of_latents * latents, of_picture * picture], dim=2)


def blurred(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x.flatten(0, -4), 3, 1, 1).reshape(x.shape)


def unscaled(right: Tensors) -> float:
    return float((right["sigmas"][1] ** 2 + 1) ** 0.5)


FACTOR = 0.18215
PLANTED = (
    same("CLIP's channels are BGR", "clip.pixels", lambda x: x.flip(1), "channels reversed"),
    same("CLIP's pixels are mirrored", "clip.pixels", lambda x: x.flip(-1), "left to right"),
    same("CLIP's pixels are in [0, 255]", "clip.pixels", lambda x: 255 * x, "255.0 times"),
    same("CLIP's pixels are smoothed", "clip.pixels", blurred, "smoothed over 3 x 3"),
    same("the embedding is of norm 1", "clip.embedding", lambda x: x / x.norm(), "times"),
    same("the noise is mirrored", "image.noise", lambda x: x.flip(-1), "left to right"),
    same("the noise is uniform", "image.noise", lambda x: 12**0.5 * (noise(x).sigmoid() - 0.5)),
    same("the noise is halved", "image.noise", lambda x: x / 2, "0.5000 times"),
    same("the picture is in BGR", "image.augmented", lambda x: x.flip(1), "channels reversed"),
    same("the picture is in [0, 1]", "image.augmented", lambda x: (x + 1) / 2, "plus 0.5"),
    Planted(
        "the noise is added twice",
        "image.augmented",
        lambda right: right["image.augmented"] + 0.02 * right["image.noise"],
    ),
    same("the latent is mirrored", "image.latent", lambda x: x.flip(-1), "left to right"),
    same("the latent is shifted", "image.latent", lambda x: x.roll(1, -2), "a pixel down"),
    same(
        "the latent's channels are permuted",
        "image.latent",
        lambda x: x[:, [1, 0, 3, 2]],
        "1, 0, 3, 2",
    ),
    same(
        "the latent is scaled twice",
        "image.latent",
        lambda x: FACTOR**2 * x,
        "scaling factor squared",
    ),
    same("the latent is smoothed", "image.latent", blurred, "smoothed over 3 x 3"),
    same(
        "the motion bucket is 255",
        "time_ids",
        lambda x: torch.tensor([[float(x[0, 0]), 255.0, float(x[0, 2])]]),
        "entry 1 is 255",
    ),
    same("the strength is left out", "time_ids", lambda x: x * torch.tensor([1, 1, 0]), "entry 2"),
    same("guidance falls", "guidance", lambda x: x.flip(0), "entries reversed"),
    same("guidance is halved", "guidance", lambda x: x / 2, "0.5000 times"),
    same("rho is 5", "sigmas", lambda x: rho(x, 5), "rho 5"),
    same("sigmas rise", "sigmas", lambda x: x.flip(0), "reversed"),
    same("the last sigma is not 0", "sigmas", lambda x: x.clamp(min=float(x[-2])), "clamped"),
    same("timesteps are ln(sigma)", "timesteps", lambda x: 4 * x, "ln(sigma)"),
    same("timesteps lack the logarithm", "timesteps", lambda x: (4 * x).exp(), "sigma itself"),
    same("latents are scaled by 0.9", "latents.init", lambda x: 0.9 * x, "0.9000 times"),
    same(
        "latents are scaled by the root",
        "latents.init",
        lambda x: x / x.std().sqrt(),
        "times the right one",
    ),
    same("latents are mirrored", "latents.init", lambda x: x.flip(-2), "top to bottom"),
    same("latents' frames are reversed", "latents.init", lambda x: x.flip(1), "frames reversed"),
    same("all frames have one noise", "latents.init", lambda x: x[:, :1].expand_as(x), "frame 0"),
    same(
        "other noise, half as strong",
        "latents.init",
        lambda x: 0.5 * x.std() * noise(x),
        "other noise, 0.",
    ),
    Planted(
        "the input is not scaled",
        "step.001.model_input",
        lambda right: input_with(right, of_latents=unscaled(right)),
        "not scaled",
    ),
    Planted(
        "the picture is scaled in the input",
        "step.001.model_input",
        lambda right: input_with(right, of_picture=FACTOR),
        "times the scaling factor",
    ),
    Planted(
        "both halves have the picture's prediction",
        "step.001.model_output",
        lambda right: right["step.001.model_output"][[1, 1]],
        "half 1 everywhere",
    ),
    same("the prediction has its sign turned", "step.001.model_output", lambda x: -x, "minus"),
    Planted(
        "the prediction is that of the step before",
        "step.001.model_output",
        lambda right: right["step.000.model_output"],
        "step.000.model_output",
    ),
    Planted(
        "guidance is in the reverse order",
        "step.001.guided",
        lambda right: guided(right, 1, lambda scales: scales.flip(0)),
        "reverse order",
    ),
    Planted(
        "guidance is 7.5 everywhere",
        "step.001.guided",
        lambda right: guided(right, 1, lambda scales: torch.full_like(scales, 7.5)),
        "a guidance of 7.5 at every frame",
    ),
    Planted(
        "guidance grows to another end",
        "step.001.guided",
        lambda right: guided(right, 1, lambda scales: torch.linspace(1.5, 6, len(scales))),
        "1.5 at the first frame and 6 at the last",
    ),
    Planted(
        "the conditional half alone",
        "step.001.guided",
        lambda right: guided(right, 1, torch.ones_like),
        "conditional half alone",
    ),
    Planted(
        "the step begins one level too early",
        "step.001.latents",
        lambda right: stepped(right, 1, 0, 2),
        "sigma 0 to 2, not 1 to 2",
    ),
    Planted(
        "the step has its sign turned",
        "step.001.latents",
        lambda right: stepped(right, 1, 1, 2, sign=-1),
        "sign turned",
    ),
    Planted(
        "the step is left out",
        "step.001.latents",
        lambda right: right["step.000.latents"],
        "latents before the step",
    ),
    Planted(
        "the last step is not decoded",
        "decode.latents",
        lambda right: right["step.001.latents"][0] / FACTOR,
        "latents before step 2",
    ),
    same("latents are unscaled twice", "decode.latents", lambda x: x / FACTOR, "5.490 times"),
    same("frames are in [0, 1]", "frames", lambda x: (x + 1) / 2, "frames.uint8"),
    same("the frames come late", "frames", lambda x: x[[0, *range(len(x) - 1)]], "later"),
    same(
        "a frame is black", "frames", lambda x: torch.cat([x[:2], 0 * x[2:3] - 1, x[3:]]), "frame 2"
    ),
    same("bytes are BGR", "frames.uint8", lambda x: x.flip(-1), "channels reversed"),
    Planted(
        "bytes wrap around",
        "frames.uint8",
        lambda right: (right["frames"].clamp(-1, 1) * 127.5 + 130).permute(0, 2, 3, 1) % 256 // 1,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What was made of a mistake."""

    planted: Planted
    found: Diagnosis

    @property
    def located(self) -> str:
        """The first tensor that departs."""
        return next((finding.key for finding in self.found.findings if finding.departs), "none")

    @property
    def described(self) -> str:
        """What is said of the tensor that it was planted in."""
        at = (finding for finding in self.found.findings if finding.key == self.planted.key)
        return next((relation_of(finding) for finding in at), "")


def outcome(
    planted: Planted, right: Tensors, engine: Engine, picture: Image.Image, params: RenderParams
) -> Outcome:
    """Diagnose a right trace with the mistake; the UNet at one step if it is not there."""
    steps = None if split_key(planted.key)[0] == UNET else 1
    found = diagnosed(planted.into(right), engine, picture, params, steps_judged=steps)
    return Outcome(planted, found)
