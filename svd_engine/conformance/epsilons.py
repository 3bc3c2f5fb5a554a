"""Runs a network with other epsilons in its norms, to see whether a port has one of these.

They change a result little, mostly by less than half precision does. Another epsilon is therefore
told from rounding by how much of a departure it explains, and not by the departure's size.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from torch import Tensor, nn

from svd_engine.conformance.draws import rms
from svd_engine.conformance.findings import EXPLAINS, Finding, Verdict
from svd_engine.conformance.relations import is_half
from svd_engine.deviations import all_set
from svd_engine.engine import Engine

EXACT_NETWORK = 1e-5  # a network's residual in float32, summed in another order
EPSILONS = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3)  # below the first, results differ by rounding alone
KINDS: Mapping[str, type[nn.Module]] = {"group norms": nn.GroupNorm, "layer norms": nn.LayerNorm}

# By tensor, the network that computes it.
NETWORKS: Mapping[str, Callable[[Engine], nn.Module]] = {
    "clip.embedding": lambda engine: engine.image_encoder,
    "image.latent": lambda engine: engine.vae.encoder,
    "step.model_output": lambda engine: engine.unet,
    "frames": lambda engine: engine.vae.decoder,
}

Named: TypeAlias = Iterator[tuple[str, Tensor]]


def with_another_epsilon(
    engine: Engine, name: str, finding: Finding, theirs: Tensor, compute: Callable[[], Tensor]
) -> Finding:
    """Add to a finding which other epsilon explains it, if one does.

    name: the tensor's, in `NETWORKS`. compute: runs its network, and returns the right tensor.
    """
    departure = finding.right or 0.0
    if finding.verdict is Verdict.RIGHT:
        tried = departure > EXACT_NETWORK and not is_half(theirs)
    else:
        tried = finding.verdict is Verdict.UNEXPLAINED and not finding.relation
    if not tried:
        return finding
    others = _computed(NETWORKS[name](engine), compute)
    left = {text: rms(theirs - other) / (rms(theirs) or 1.0) for text, other in others}
    text = min(left, key=lambda text: left[text])
    if left[text] > EXPLAINS * departure:
        return finding
    found = replace(finding, verdict=Verdict.UNEXPLAINED, relation=text)
    return replace(found, relation_residual=left[text])


def _computed(network: nn.Module, compute: Callable[[], Tensor]) -> Named:
    """What is computed with each other epsilon in all norms of a kind, with its description."""
    for norms, kind in KINDS.items():
        own = {module.eps for module in network.modules() if isinstance(module, kind)}
        for epsilon in EPSILONS:
            if own - {epsilon}:
                with all_set(network, kind, "eps", epsilon):
                    tensor = compute()
                less = " or less" if epsilon == EPSILONS[0] else ""
                yield f"the right one with an epsilon of {epsilon:g}{less} in all {norms}", tensor
