"""Which known mistakes explain a trace: for each stage, what is right and what each would give.

A mistake is named where it leaves less than half of what is unexplained without it. Rounding and
noise are explained by none, however large: so a trace in bfloat16 is right, or wrong, as well.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from importlib import import_module
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svd_engine.conditioning import posterior
from svd_engine.conformance.replay import STAGES, Case, MissingTensorError, replayable_keys
from svd_engine.conformance.traces import Trace, align, split_key
from svd_engine.deviation_catalogue import CATALOGUE
from svd_engine.deviations import recipe_of
from svd_engine.image import vae_pixels
from svd_engine.sizes import LATENT_SCALE

EXACT = 1e-6  # of the right tensor's RMS: float32 in another order of summation
ROUNDING = 0.05  # of it: half precision; beyond it, what no mistake explains is said
ROUNDING_TOLD = 2**-8  # the same, of numbers that are told and not computed by a network
TOLD = ("time_ids", "guidance", "sigmas", "timesteps")
EXPLAINS = 0.5  # of what was unexplained, at most, is left by a mistake that is named
LITTLE = 1e-4  # that noise which is small beside the picture's latent may be
LIKE_UNIT = 0.02  # that unit noise may be off, and what chance adds in a small tensor


class Verdict(StrEnum):
    """What is made of a tensor."""

    RIGHT = "right"
    WRONG = "wrong"  # by mistakes that are named
    UNEXPLAINED = "unexplained"  # it departs, and no known mistake gives it
    UNKNOWN = "unknown"  # the trace has not what it takes


@dataclass(frozen=True)
class Finding:
    """A tensor of the trace, judged. Residuals are over the right tensor's RMS."""

    key: str
    verdict: Verdict
    deviations: tuple[str, ...] = ()
    right: float | None = None  # residual under what is right
    under: float | None = None  # under the mistakes named
    note: str = ""  # how it is laid out, or what is missing


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of computation."""

    findings: tuple[Finding, ...]
    record_next: tuple[str, ...]  # what the trace lacks for more to be judged

    @property
    def deviations(self) -> tuple[str, ...]:
        """Every mistake named, in the catalogue's order."""
        named = {name for finding in self.findings for name in finding.deviations}
        return tuple(name for name in CATALOGUE if name in named)

    @property
    def exit_status(self) -> int:
        """0 nothing wrong, 1 something named, 2 cannot tell."""
        if self.deviations:
            return 1
        verdicts = {finding.verdict for finding in self.findings}
        return 2 if Verdict.UNEXPLAINED in verdicts or Verdict.RIGHT not in verdicts else 0

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "deviations": list(self.deviations),
            "stages": [asdict(finding) for finding in self.findings],
            "record_next": list(self.record_next),
        }


@torch.no_grad()
def diagnose(case: Case, tell: Callable[[Finding], object] = lambda _: None) -> Diagnosis:
    """Judge every tensor that can be. tell: called with each finding as it is made."""
    findings, missing = [], dict[str, None]()
    for key, name, step in replayable_keys(case.trace):
        try:
            finding = _judge(case, key, name, step)
        except MissingTensorError as error:
            needed = str(error.args[0])
            missing[needed] = None
            finding = Finding(key, Verdict.UNKNOWN, note=f"needs {needed}")
        findings.append(finding)
        tell(finding)
    judged = {split_key(finding.key)[0] for finding in findings}
    missing |= dict.fromkeys(
        name.replace("step.", "step.000.") for name in STAGES if name not in judged
    )
    return Diagnosis(tuple(findings), tuple(missing))


def _judge(case: Case, key: str, name: str, step: int) -> Finding:
    compute = STAGES[name]

    def under(deviations: Sequence[str]) -> Tensor:
        params = case.params.model_copy(update={"deviations": tuple(deviations)})
        return compute(case, recipe_of(params), step).float().cpu()

    right = under(())
    aligned = align(case.trace[key], tuple(right.shape))
    if aligned is None and name == "time_ids" and case.trace[key].numel() == 6:  # of both halves
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
        # What they say of their sigmas may not be what they told the UNet of.
        alone = Trace({"timesteps": case.trace["timesteps"]})
        finding = _judge(replace(case, trace=alone), key, name, step)
    if finding.verdict is Verdict.UNEXPLAINED and name == "time_ids":
        finding = _in_another_order(finding, theirs, under)
    return finding


def _explain(
    key: str, name: str, theirs: Tensor, right: Tensor, under: Callable[[Sequence[str]], Tensor]
) -> Finding:
    """The fewest mistakes that explain a tensor."""
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
    if left > (ROUNDING_TOLD if name in TOLD else ROUNDING):
        return Finding(key, Verdict.UNEXPLAINED, (), at_right, left if best else None)
    if not best:
        return Finding(key, Verdict.RIGHT, (), at_right)
    return Finding(key, Verdict.WRONG, best, at_right, left)


def _rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def _with_other_noise(
    case: Case, finding: Finding, theirs: Tensor, right: Tensor
) -> Finding | None:
    """What spread tells where their noise is of another generator than torch's."""
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
    """Whether it is noise of mean 0 and variance 1, as far as so many values tell."""
    chance = 4 / noise.numel() ** 0.5
    spread, mean = _rms(noise), noise.mean().item()
    return abs(spread - 1) < LIKE_UNIT + chance / 2**0.5 and abs(mean) < LIKE_UNIT + chance


def _in_another_order(
    finding: Finding, theirs: Tensor, under: Callable[[Sequence[str]], Tensor]
) -> Finding:
    """Time ids in an order that the catalogue's own change does not make."""
    for others in ((), ("fps_not_reduced",)):
        ids = under(others)
        for order in permutations(range(3)):
            left = _rms(theirs - ids[:, list(order)]) / _rms(ids)
            if left < ROUNDING_TOLD:
                names = (*others, "time_ids_order")
                note = f"in the order {list(order)}"
                return replace(
                    finding, verdict=Verdict.WRONG, deviations=names, under=left, note=note
                )
    return finding


def right_line(name: str) -> str:
    """Where this engine does right what a mistake does wrong: file, line and function."""
    module_name, _, function_name = CATALOGUE[name].where.partition(":")
    module = import_module(f"svd_engine.{module_name}")
    function = inspect.unwrap(getattr(module, function_name))
    lines, first = inspect.getsourcelines(function)
    line = first + next(n for n, text in enumerate(lines) if function_name in text)
    root = Path(__file__).parents[2]
    file = Path(inspect.getsourcefile(function) or "").relative_to(root)
    return f"{file}:{line} {function_name}"


def report(diagnosis: Diagnosis) -> Iterator[str]:
    """Lines for people, after those of the findings."""
    for name in diagnosis.deviations:
        known = CATALOGUE[name]
        yield f"{name}: {known.wrong}"
        yield f"    right: {known.right} ({right_line(name)})"
    unexplained = [f.key for f in diagnosis.findings if f.verdict is Verdict.UNEXPLAINED]
    if unexplained:
        yield f"departs, and no known mistake explains it: {', '.join(unexplained)}"
    if diagnosis.record_next:
        yield f"to judge more, record {', '.join(diagnosis.record_next)}"
    if diagnosis.exit_status == 0:
        yield "nothing wrong in what was recorded"
    elif diagnosis.exit_status == 2 and not unexplained:
        yield "cannot tell: nothing could be judged"


def line_of(finding: Finding) -> str:
    """A finding on one line."""
    numbers = [("right", finding.right), ("under it", finding.under)]
    told = ", ".join(f"{what} {number:.1e}" for what, number in numbers if number is not None)
    named = " + ".join(finding.deviations)
    parts = [finding.key.ljust(22), finding.verdict.value.ljust(12), named, told, finding.note]
    return "  ".join(part for part in parts if part).rstrip()
