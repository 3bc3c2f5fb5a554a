"""Judges a tensor of a trace, by replaying its stage with and without the known mistakes.

A mistake is named if making it brings the engine's result much closer to the tensor. No mistake
explains rounding or noise, however large, so traces in bfloat16 can be judged as well. What no
mistake explains is described by its relation to what is right.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import TypeAlias

import torch
from torch import Tensor

from svd_engine.conditioning import posterior
from svd_engine.conformance.draws import is_draw, rms, spread_of_draw
from svd_engine.conformance.epsilons import EXACT_NETWORK, NETWORKS, with_another_epsilon
from svd_engine.conformance.findings import EXPLAINS, Finding, Verdict
from svd_engine.conformance.relations import Relation, describe, is_half
from svd_engine.conformance.replay import STAGES, Case
from svd_engine.conformance.suspects import constants_of, suspects
from svd_engine.conformance.traces import Trace, align
from svd_engine.deviation_catalogue import CATALOGUE
from svd_engine.deviations import recipe_of
from svd_engine.picture_pixels import vae_pixels
from svd_engine.sizes import LATENT_SCALE

EXACT = 1e-6  # up to this residual no mistake is looked for: float32 in another order of sums
# The residuals above which a tensor departs: what rounding, or another order of sums, leaves.
ROUNDING = 0.05  # of a network in half precision
ROUNDING_PICTURE = 2**-6  # of resizing a picture, in whole levels or not
ROUNDING_HALF = 2**-6  # of a few operations in half precision
ROUNDING_FEW = 2**-8  # of one operation in half precision
ROUNDING_FLOAT32 = 2**-10  # of a few operations in float32, with room for noise
PICTURES = ("clip.pixels", "image.augmented")
FEW = ("time_ids", "guidance", "sigmas", "timesteps", "frames.uint8")
EXPLAINS_HALF = 0.5  # the same as EXPLAINS for a tensor in half precision
LITTLE = 1e-4  # a residual of the picture's latent that may come from other noise
ONE_BY_ONE = ("time_ids", "sigmas")  # their entries differ in size: each is judged by its own
SMALL = 0.01  # stands for the size of an entry that should be zero, if none is smaller

# Called with each tensor that departs, in this engine's layout, and the right one.
Show: TypeAlias = Callable[[Finding, Tensor, Tensor], object]


def judge_tensor(case: Case, key: str, name: str, step: int, show: Show | None = None) -> Finding:
    """Judge one tensor of a trace. Raises MissingTensorError if the trace lacks an input to it."""
    if step >= case.params.steps:
        return Finding(key, Verdict.UNKNOWN, note=f"there are {case.params.steps} steps, from 0 on")

    def under(deviations: Sequence[str]) -> Tensor:
        params = case.params.model_copy(update={"deviations": tuple(deviations)})
        tensor = STAGES[name](case, recipe_of(params), step).float().cpu()
        return tensor.expand(2, -1) if both_halves else tensor

    both_halves = name == "time_ids" and case.trace[key].numel() == 6
    right = under(())
    recorded = case.trace[key].reshape(2, 3) if both_halves else case.trace[key]
    aligned = align(recorded, tuple(right.shape))
    if aligned is None:
        shape = list(case.trace[key].shape)
        return Finding(key, Verdict.UNKNOWN, note=f"is {shape}, not {list(right.shape)}")
    theirs, note = aligned[0].float(), aligned[1]
    if name == "frames":
        theirs = theirs.clamp(-1, 1)
    finding = _explain(key, name, theirs, right, under)
    finding = replace(finding, note=finding.note or note)
    finding = _look_closer(case, finding, name, step, theirs, right, under)
    if name in NETWORKS:
        finding = with_another_epsilon(case.engine, name, finding, theirs, lambda: under(()))
    if show is not None and finding.departs:
        show(finding, theirs, right)
    return finding


def _look_closer(
    case: Case,
    finding: Finding,
    name: str,
    step: int,
    theirs: Tensor,
    right: Tensor,
    under: Callable[[Sequence[str]], Tensor],
) -> Finding:
    """Look for other explanations of a tensor than the mistakes, or else describe it."""
    little = name == "image.latent" and finding.verdict is Verdict.RIGHT
    if finding.verdict is Verdict.UNEXPLAINED or (little and (finding.right or 0) > LITTLE):
        finding = _with_other_noise(case, finding, theirs, right, under) or finding
    if finding.verdict is Verdict.UNEXPLAINED and name == "timesteps":
        finding = _of_the_right_sigmas(case, finding, step)
    if finding.verdict is Verdict.UNEXPLAINED and name == "time_ids":
        finding = _in_another_order(finding, theirs, under)
    if finding.verdict is Verdict.UNEXPLAINED and not finding.relation:
        finding = _described(case, finding, name, step, theirs, right)
    return finding


def judge_block(key: str, theirs: Tensor, right: Tensor, note: str) -> Finding:
    """Judge the result of a block inside a network, of the same shape as the right one."""
    if not theirs.isfinite().all():
        return Finding(key, Verdict.UNEXPLAINED, note="holds NaN or Inf")
    left = _residual(key, theirs, right, right)
    if left <= (ROUNDING if is_half(theirs) else ROUNDING_FLOAT32):
        return Finding(key, Verdict.RIGHT, (), left, note=note)
    finding = Finding(key, Verdict.UNEXPLAINED, (), left, note=note)
    return _with_relation(finding, describe(theirs, right))


def _explain(
    key: str, name: str, theirs: Tensor, right: Tensor, under: Callable[[Sequence[str]], Tensor]
) -> Finding:
    """Find the fewest mistakes that explain a tensor."""

    def residual(deviations: Sequence[str]) -> float:
        other = under(deviations)
        return _residual(name, theirs, other, right) if other.shape == theirs.shape else torch.inf

    if not theirs.isfinite().all():
        off = theirs.numel() - int(theirs.isfinite().sum())
        relation = f"{off} of its {theirs.numel()} values are not finite"
        return Finding(key, Verdict.UNEXPLAINED, note="holds NaN or Inf", relation=relation)
    if not right.isfinite().all():
        return Finding(key, Verdict.UNKNOWN, note="its inputs hold NaN or Inf")
    at_right = _residual(name, theirs, right, right)
    best, left = tuple[str, ...](), at_right
    enough = _rounding(name, theirs)
    candidates = [known.name for known in CATALOGUE.values() if name in known.shows_in]
    for size in range(1, len(candidates) + 1):
        if left <= (EXACT_NETWORK if name in NETWORKS else EXACT):
            break
        tried = {some: residual(some) for some in combinations(candidates, size)}
        some = min(tried, key=lambda some: tried[some])
        if tried[some] < EXPLAINS_HALF * left:
            best, left = some, tried[some]
    share = EXPLAINS_HALF if is_half(theirs) else EXPLAINS
    if best and left > share * at_right:  # it is nearer to the mistake by chance
        best, left = (), at_right
    if left > enough:
        return Finding(key, Verdict.UNEXPLAINED, (), at_right, left if best else None)
    if not best:
        return Finding(key, Verdict.RIGHT, (), at_right)
    return Finding(key, Verdict.WRONG, best, at_right, left)


def _rounding(name: str, theirs: Tensor) -> float:
    """The largest residual of a right tensor."""
    if name in NETWORKS:
        return ROUNDING
    if name in PICTURES:
        return ROUNDING_PICTURE
    if name in FEW:
        return ROUNDING_FEW
    return ROUNDING_HALF if is_half(theirs) else ROUNDING_FLOAT32


def _residual(name: str, theirs: Tensor, other: Tensor, right: Tensor) -> float:
    """The RMS of a difference, over the right tensor's, or entry by entry for `ONE_BY_ONE`."""
    if name not in ONE_BY_ONE:
        return rms(theirs - other) / (rms(right) or 1.0)
    sizes = right.abs()
    smallest = sizes[sizes > 0].min().clamp(max=SMALL) if (sizes > 0).any() else SMALL
    return rms((theirs - other) / torch.where(sizes > 0, sizes, smallest))


def _described(
    case: Case, finding: Finding, name: str, step: int, theirs: Tensor, right: Tensor
) -> Finding:
    """Add the tensor's relation to the right one, or to what it may have been mistaken for."""
    others = dict(suspects(case, name, step))
    if name == "frames.uint8":  # relations are of channels before height and width
        theirs, right = theirs.movedim(-1, 1), right.movedim(-1, 1)
        others = {text: other.movedim(-1, 1) for text, other in others.items()}
    return _with_relation(finding, describe(theirs, right, others, constants_of(case)))


def _with_relation(finding: Finding, relation: Relation | None) -> Finding:
    if relation is None:
        return finding
    return replace(finding, relation=relation.text, relation_residual=relation.residual)


def _with_other_noise(
    case: Case,
    finding: Finding,
    theirs: Tensor,
    right: Tensor,
    under: Callable[[Sequence[str]], Tensor],
) -> Finding | None:
    """Judge a tensor by the statistics of its noise, which another generator may have drawn."""
    note = "judged by the statistics of its noise, which another generator drew"
    drawn = list(_noises(case, finding.key, theirs, right, under))
    if not drawn or describe(theirs, right) is not None:  # none, or the right one in disguise
        return None
    for noise, fields, names in drawn:
        if is_draw(noise, fields):
            verdict = Verdict.WRONG if names else Verdict.RIGHT
            return replace(finding, verdict=verdict, deviations=names, note=note)
    noise, fields, _ = drawn[0]
    if finding.key != "image.latent" and (spread := spread_of_draw(noise, fields)):
        text = f"other noise, {spread:.4g} times as strong as is right"
        return replace(finding, relation=text)
    return None


def _noises(
    case: Case,
    key: str,
    theirs: Tensor,
    right: Tensor,
    under: Callable[[Sequence[str]], Tensor],
) -> Iterator[tuple[Tensor, list[Tensor], tuple[str, ...]]]:
    """What should be unit noise in a tensor, what that should be independent of, and mistakes.

    The mistakes are those that explain the tensor if the noise passes.
    """
    strength = case.params.noise_aug_strength
    if key == "image.noise":
        yield theirs, [right], ()
    elif key == "latents.init":
        unit = under(("initial_scale_missing",))
        yield theirs * (rms(unit) / rms(right)), [unit], ()
        yield theirs, [unit], ("initial_scale_missing",)
    elif key == "image.augmented" and strength and "image.noise" not in case.trace:
        clean = vae_pixels(case.image, theirs.shape[-1], theirs.shape[-2])
        yield (theirs - clean) / strength, [clean, right - clean], ()
    elif key == "image.latent":
        sides = (LATENT_SCALE * side for side in theirs.shape[-2:])
        pixels = case.tensor("image.augmented", (1, 3, *sides))
        mean, log_variance = (x.float().cpu() for x in posterior(case.engine.vae, pixels))
        spread = (0.5 * log_variance.clamp(-30, 20)).exp()
        factor = case.engine.vae.config.scaling_factor
        scaled = ("posterior_sampled", "image_latent_scaled")
        yield (theirs - mean) / spread, [mean, spread], scaled[:1]
        yield (theirs / factor - mean) / spread, [mean, spread], scaled
        if strength:
            yield (theirs - mean) / strength, [mean], ("noise_on_latents",)


def _of_the_right_sigmas(case: Case, finding: Finding, step: int) -> Finding:
    """Judge timesteps that were not computed from the sigmas that the port recorded."""
    if "sigmas" not in case.trace:
        return finding
    alone = Trace({"timesteps": case.trace["timesteps"]})
    other = judge_tensor(replace(case, trace=alone), finding.key, "timesteps", step)
    return finding if other.verdict is Verdict.UNEXPLAINED else other


def _in_another_order(
    finding: Finding, theirs: Tensor, under: Callable[[Sequence[str]], Tensor]
) -> Finding:
    """Recognize time ids in any order, not only in that of the catalogue's change."""
    for others in ((), ("fps_not_reduced",)):
        ids = under(others)
        for order in list(permutations(range(3)))[1:]:
            right = ids[:, list(order)]
            left = _residual("time_ids", theirs, right, right)
            if left < ROUNDING_FEW:
                names = (*others, "time_ids_order")
                note = f"in the order {list(order)}"
                return replace(
                    finding, verdict=Verdict.WRONG, deviations=names, under=left, note=note
                )
    return finding
