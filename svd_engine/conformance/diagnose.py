"""Finds the known mistakes that explain a trace, by replaying each stage with and without them.

A mistake is named if it leaves less than half of the residual that remains without it. No mistake
explains rounding or noise, however large, so traces in bfloat16 can be judged as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import combinations, permutations
from typing import Any

import torch
from torch import Tensor

from svd_engine.conditioning import posterior
from svd_engine.conformance.replay import STAGES, UNET, Case, MissingTensorError, replayable_keys
from svd_engine.conformance.traces import Trace, align, split_key
from svd_engine.deviation_catalogue import CATALOGUE
from svd_engine.deviations import recipe_of
from svd_engine.picture_pixels import vae_pixels
from svd_engine.sizes import LATENT_SCALE

EXACT = 1e-6  # of the right tensor's RMS: float32, summed in another order
ROUNDING = 0.05  # of the RMS: half precision; a larger residual is reported as unexplained
ROUNDING_NO_NETWORK = 2**-8  # the same for numbers that no network computes, listed in `NO_NETWORK`
NO_NETWORK = ("time_ids", "guidance", "sigmas", "timesteps")
EXPLAINS = 0.5  # a mistake is named if it leaves less than this share of the residual
LITTLE = 1e-4  # a residual of the picture's latent that may come from other noise
STEPS_JUDGED = 2  # of the UNet, by default
LIKE_UNIT = 0.02  # tolerance of unit noise, beside what chance adds in a small tensor


class Verdict(StrEnum):
    """The verdict on a tensor."""

    RIGHT = "right"
    WRONG = "wrong"  # explained by the mistakes that are named
    UNEXPLAINED = "unexplained"  # it departs, and no known mistake explains it
    UNKNOWN = "unknown"  # the trace lacks what is needed to judge it


@dataclass(frozen=True)
class Finding:
    """The verdict on a tensor of the trace. Residuals are relative to the right tensor's RMS."""

    key: str
    verdict: Verdict
    deviations: tuple[str, ...] = ()
    right: float | None = None  # the residual to the right tensor
    under: float | None = None  # the residual under the named mistakes
    note: str = ""  # its layout, or what is missing

    @property
    def departs(self) -> bool:
        """Whether the tensor is known to be wrong."""
        return self.verdict in (Verdict.WRONG, Verdict.UNEXPLAINED)


@dataclass(frozen=True)
class Diagnosis:
    """All findings in the order of computation."""

    findings: tuple[Finding, ...]
    record_next: tuple[str, ...]  # what the trace lacks to judge more stages
    not_judged: tuple[str, ...] = ()  # what it has of steps that were left out, or of unknown names

    @property
    def deviations(self) -> tuple[str, ...]:
        """All named mistakes, in the catalogue's order."""
        named = {name for finding in self.findings for name in finding.deviations}
        return tuple(name for name in CATALOGUE if name in named)

    @property
    def exit_status(self) -> int:
        """0: all that was recorded is right. 1: a mistake was named. 2: it cannot be told.

        A tensor that was recorded and not judged may be wrong, so that it cannot be told.
        """
        if self.deviations:
            return 1
        verdicts = {finding.verdict for finding in self.findings}
        return 0 if verdicts == {Verdict.RIGHT} and not self.not_judged else 2

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as JSON values."""
        return {
            "deviations": list(self.deviations),
            "stages": [asdict(finding) for finding in self.findings],
            "record_next": list(self.record_next),
            "not_judged": list(self.not_judged),
        }


@torch.no_grad()
def diagnose(
    case: Case,
    tell: Callable[[Finding], object] = lambda _: None,
    steps_judged: int | None = STEPS_JUDGED,
) -> Diagnosis:
    """Judge every tensor of the trace that can be judged. tell: called with each finding.

    steps_judged: at how many of the recorded steps to judge the UNet, spread evenly from the first
    to the last; None means all. If a later one of them departs and an earlier one does not, the
    first step that departs is searched for between them by bisection.
    """
    keys = list(replayable_keys(case.trace))
    of_unet = {step: key for key, name, step in keys if name == UNET}
    chosen = _spread(sorted(of_unet), steps_judged)
    findings, missing = dict[str, Finding](), dict[str, None]()

    def judge(key: str, name: str, step: int) -> Finding:
        try:
            finding = _judge(case, key, name, step)
        except MissingTensorError as error:
            needed = str(error.args[0])
            missing[needed] = None
            finding = Finding(key, Verdict.UNKNOWN, note=f"needs {needed}")
        findings[key] = finding
        tell(finding)
        return finding

    for key, name, step in keys:
        if name != UNET or step in chosen:
            judge(key, name, step)
    departs = {step: findings[of_unet[step]].departs for step in chosen}
    _bisect(sorted(of_unet), departs, lambda step: judge(of_unet[step], UNET, step).departs)
    judged = {split_key(key)[0] for key in findings}
    missing |= dict.fromkeys(
        name.replace("step.", "step.000.") for name in STAGES if name not in judged
    )
    return Diagnosis(
        tuple(findings[key] for key in case.trace if key in findings),
        tuple(missing),
        tuple(key for key in case.trace if key not in findings),
    )


def _spread(steps: Sequence[int], count: int | None) -> set[int]:
    """`count` of the steps, spread evenly from the first to the last; None means all."""
    if count is None or count >= len(steps):
        return set(steps)
    last = len(steps) - 1
    return {steps[round(n * last / max(count - 1, 1))] for n in range(count)}


def _bisect(steps: Sequence[int], departs: dict[int, bool], judge: Callable[[int], bool]) -> None:
    """Find the first step that departs between those that were judged, by judging others."""
    first = min((step for step, does in departs.items() if does), default=None)
    before = [step for step in departs if first is not None and step < first]
    if first is None or not before:
        return
    between = [step for step in steps if max(before) < step < first]
    while between:
        middle = len(between) // 2
        between = between[:middle] if judge(between[middle]) else between[middle + 1 :]


def _judge(case: Case, key: str, name: str, step: int) -> Finding:
    compute = STAGES[name]
    if step >= case.params.steps:
        return Finding(key, Verdict.UNKNOWN, note=f"there are {case.params.steps} steps, from 0 on")

    def under(deviations: Sequence[str]) -> Tensor:
        params = case.params.model_copy(update={"deviations": tuple(deviations)})
        return compute(case, recipe_of(params), step).float().cpu()

    right = under(())
    aligned = align(case.trace[key], tuple(right.shape))
    if aligned is None and name == "time_ids" and case.trace[key].numel() == 6:  # both halves
        aligned = align(case.trace[key].reshape(-1, 3)[-1:], (1, 3))
    if aligned is None:
        shape = list(case.trace[key].shape)
        return Finding(key, Verdict.UNKNOWN, note=f"is {shape}, not {list(right.shape)}")
    theirs, note = aligned[0].float(), aligned[1]
    if name == "frames":
        theirs = theirs.clamp(-1, 1)
    finding = _explain(key, name, theirs, right, under)
    finding = replace(finding, note=finding.note or note)
    little = name == "image.latent" and finding.verdict is Verdict.RIGHT
    if finding.verdict is Verdict.UNEXPLAINED or (little and (finding.right or 0) > LITTLE):
        finding = _with_other_noise(case, finding, theirs, right) or finding
    if finding.verdict is Verdict.UNEXPLAINED and name == "timesteps" and "sigmas" in case.trace:
        # The recorded sigmas may not be those that the timesteps were computed from.
        alone = Trace({"timesteps": case.trace["timesteps"]})
        finding = _judge(replace(case, trace=alone), key, name, step)
    if finding.verdict is Verdict.UNEXPLAINED and name == "time_ids":
        finding = _in_another_order(finding, theirs, under)
    return finding


def _explain(
    key: str, name: str, theirs: Tensor, right: Tensor, under: Callable[[Sequence[str]], Tensor]
) -> Finding:
    """Find the fewest mistakes that explain a tensor."""
    scale = _rms(right) or 1.0

    def residual(deviations: Sequence[str]) -> float:
        other = under(deviations)
        same = other.shape == theirs.shape
        return _rms(theirs - other) / scale if same else float("inf")

    if not theirs.isfinite().all():
        return Finding(key, Verdict.UNEXPLAINED, note="holds NaN or Inf")
    if not right.isfinite().all():
        return Finding(key, Verdict.UNKNOWN, note="what it is made of holds NaN or Inf")
    at_right = _rms(theirs - right) / scale
    best, left = tuple[str, ...](), at_right
    candidates = [known.name for known in CATALOGUE.values() if name in known.shows_in]
    for size in range(1, len(candidates) + 1):
        if left <= EXACT:
            break
        tried = {some: residual(some) for some in combinations(candidates, size)}
        some = min(tried, key=lambda some: tried[some])
        if tried[some] < EXPLAINS * left:
            best, left = some, tried[some]
    if left > (ROUNDING_NO_NETWORK if name in NO_NETWORK else ROUNDING):
        return Finding(key, Verdict.UNEXPLAINED, (), at_right, left if best else None)
    if not best:
        return Finding(key, Verdict.RIGHT, (), at_right)
    return Finding(key, Verdict.WRONG, best, at_right, left)


def _rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def _with_other_noise(
    case: Case, finding: Finding, theirs: Tensor, right: Tensor
) -> Finding | None:
    """Judge a tensor by the spread of its noise, which another generator may have drawn."""
    note = "by the spread of its noise: the generator is another"
    strength = case.params.noise_aug_strength
    explanations: list[tuple[Tensor, tuple[str, ...]]] = []
    if finding.key == "image.noise":
        explanations = [(theirs, ())]
    elif finding.key == "latents.init":
        scale = _rms(right)
        explanations = [(theirs / scale, ()), (theirs, ("initial_scale_missing",))]
    elif finding.key == "image.augmented" and strength:
        clean = vae_pixels(case.image, theirs.shape[-1], theirs.shape[-2])
        explanations = [((theirs - clean) / strength, ())]
    elif finding.key == "image.latent":
        sides = (LATENT_SCALE * side for side in theirs.shape[-2:])
        pixels = case.tensor("image.augmented", (1, 3, *sides))
        mean, log_variance = (x.float().cpu() for x in posterior(case.engine.vae, pixels))
        spread = (0.5 * log_variance.clamp(-30, 20)).exp()
        factor = case.engine.vae.config.scaling_factor
        explanations = [
            ((theirs - mean) / spread, ("posterior_sampled",)),
            ((theirs / factor - mean) / spread, ("posterior_sampled", "image_latent_scaled")),
        ]
        if strength:
            explanations.append(((theirs - mean) / strength, ("noise_on_latents",)))
    for noise, names in explanations:
        if _is_unit(noise):
            verdict = Verdict.WRONG if names else Verdict.RIGHT
            return replace(finding, verdict=verdict, deviations=names, note=note)
    return None


def _is_unit(noise: Tensor) -> bool:
    """Whether a tensor may be noise of mean 0 and variance 1, considering its size."""
    chance = 4 / noise.numel() ** 0.5
    spread, mean = _rms(noise), noise.mean().item()
    return abs(spread - 1) < LIKE_UNIT + chance / 2**0.5 and abs(mean) < LIKE_UNIT + chance


def _in_another_order(
    finding: Finding, theirs: Tensor, under: Callable[[Sequence[str]], Tensor]
) -> Finding:
    """Recognize time ids in any order, not only in that of the catalogue's change."""
    for others in ((), ("fps_not_reduced",)):
        ids = under(others)
        for order in permutations(range(3)):
            left = _rms(theirs - ids[:, list(order)]) / _rms(ids)
            if left < ROUNDING_NO_NETWORK:
                names = (*others, "time_ids_order")
                note = f"in the order {list(order)}"
                return replace(
                    finding, verdict=Verdict.WRONG, deviations=names, under=left, note=note
                )
    return finding
