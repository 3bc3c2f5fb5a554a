"""Looks inside the networks: judges a port's blocks, each from the port's own inputs to it.

A network of the engine runs on the trace's tensors. Where the port recorded a block's result, the
engine's is compared with it and then replaced by it. So a mistake shows in the block that makes it
and in none after it, just as between the stages of a trace.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svd_engine.conformance.findings import Finding, Verdict
from svd_engine.conformance.judge import judge_block
from svd_engine.conformance.replay import STAGES, UNET, Case, MissingTensorError
from svd_engine.conformance.traces import Trace, align, split_key
from svd_engine.deviations import recipe_of
from svd_engine.layers import Conv, ResBlock, SpatioTemporalResBlock
from svd_engine.params import RenderParams
from svd_engine.transformer import SpatioTemporalTransformer, TransformerBlock
from svd_engine.unet import Downsample, Upsample
from svd_engine.vae import DecoderUpsample, EncoderDownsample, FrameAttention

# Blocks whose results are frames (..., H, W, C), which a trace has as (..., C, H, W).
OF_FRAMES = (
    *(ResBlock, SpatioTemporalResBlock, SpatioTemporalTransformer, FrameAttention),
    *(Downsample, Upsample, EncoderDownsample, DecoderUpsample),
)
CONVOLUTIONS = ("conv_in", "conv_out", "quant_conv")  # those that are blocks by themselves
EMBEDDINGS = ("time_embedding", "add_embedding")
CLIP_LAYERS = "clip.vision_model.encoder.layers"
CLIP = (  # beside its layers
    "clip.vision_model.embeddings",
    "clip.vision_model.pre_layrnorm",
    "clip.vision_model.post_layernorm",
    "clip.visual_projection",
)
# The stage of a trace to run for blocks, by what their names begin with.
STAGE_OF = {
    "clip.": "clip.embedding",
    "vae.encoder.": "image.latent",
    "vae.quant_conv": "image.latent",
    "unet.": UNET,
    "vae.decoder.": "frames",
}


def _is_of_frames(name: str, module: nn.Module) -> bool:
    if isinstance(module, Conv):
        return name.rpartition(".")[2] in CONVOLUTIONS
    return isinstance(module, OF_FRAMES)


def _is_block(name: str, module: nn.Module) -> bool:
    """Whether the engine computes a module's result by itself, not together with neighbours."""
    if name.startswith("clip."):
        return name in CLIP or name.rpartition(".")[0] == CLIP_LAYERS
    if isinstance(module, TransformerBlock):
        return True
    return name.rpartition(".")[2] in EMBEDDINGS or _is_of_frames(name, module)


def is_block(key: str) -> bool:
    """Whether a name is that of a block, and not of a stage."""
    name, _ = split_key(key)
    return name not in STAGES and name.removeprefix("step.").startswith(tuple(STAGE_OF))


def blocks_of(case: Case) -> dict[str, nn.Module]:
    """The blocks that can be compared, by name: those of diffusers' modules."""
    engine = case.engine
    networks = {"unet": engine.unet, "vae": engine.vae, "clip": engine.image_encoder}
    named = {
        f"{network}.{name}": module
        for network, whole in networks.items()
        for name, module in whole.named_modules()
        if name
    }
    return {name: module for name, module in named.items() if _is_block(name, module)}


@dataclass(frozen=True)
class Inside:
    """The findings on blocks in the order of computation, and the names that were not judged."""

    findings: tuple[Finding, ...] = ()
    not_judged: tuple[str, ...] = ()


def check_whole_steps(params: RenderParams) -> None:
    """Raise ValueError if steps reuse features: most of them then run few of the blocks."""
    if params.reuse_interval > 1:
        raise ValueError(
            f"--inside: with a reuse_interval of {params.reuse_interval}, most steps run few "
            "blocks of the UNet: record a render of whole steps, with a reuse_interval of 1"
        )


@torch.no_grad()
def look_inside(
    case: Case, theirs: Trace, tell: Callable[[Finding], object] = lambda _: None
) -> Inside:
    """Judge the blocks that a port recorded. tell: called with each finding.

    theirs: results of blocks, named as in unet.mid_block.resnets.0, or step.004.unet.conv_in; those
    of the UNet without a step are of step 0. Raises ValueError if steps reuse features.
    """
    check_whole_steps(case.params)
    blocks, findings = blocks_of(case), list[Finding]()

    def judged(finding: Finding) -> None:
        findings.append(finding)
        tell(finding)

    for stage, step, keys in _runs(theirs, blocks):
        try:
            with ExitStack() as stack:
                for key, name in keys.items():
                    hook = _hook(key, name, theirs[key], judged)
                    stack.enter_context(blocks[name].register_forward_hook(hook))
                _run(case, stage, step)
        except MissingTensorError as error:
            for key in keys:
                judged(Finding(key, Verdict.UNKNOWN, note=f"needs {error.args[0]}"))
    reached = {finding.key for finding in findings}
    return Inside(tuple(findings), tuple(key for key in theirs if key not in reached))


def _runs(
    theirs: Trace, blocks: Mapping[str, nn.Module]
) -> Iterator[tuple[str, int, dict[str, str]]]:
    """The stages and steps to run, each with the names of its recorded blocks by their keys."""
    grouped: dict[tuple[str, int], dict[str, str]] = {}
    for key in theirs:
        name, step = split_key(key)
        name = name.removeprefix("step.")
        if name in blocks:
            stage = next(stage for start, stage in STAGE_OF.items() if name.startswith(start))
            grouped.setdefault((stage, step or 0), {})[key] = name
    order = list(STAGES)
    for stage, step in sorted(grouped, key=lambda group: (order.index(group[0]), group[1])):
        yield stage, step, grouped[stage, step]


def _run(case: Case, stage: str, step: int) -> None:
    if stage != "frames":
        STAGES[stage](case, recipe_of(case.params), step)
        return
    # The whole clip at once, because a decode in slices does not run block by block.
    latents, weights = case.tensor("decode.latents", case.shape), next(case.engine.vae.parameters())
    case.engine.vae.decode(latents.to(weights))


def _hook(
    key: str, name: str, theirs: Tensor, judged: Callable[[Finding], object]
) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    """A forward hook that judges a block's result, and replaces it with the port's."""

    def hook(module: nn.Module, _args: Any, result: Tensor) -> Tensor | None:
        of_frames = _is_of_frames(name, module)
        right = result.movedim(-1, -3) if of_frames else result
        if not of_frames and not name.startswith("clip."):  # tokens (B, F, L, C), or embeddings
            right = right.flatten(0, -3) if right.ndim == 4 else right.flatten(0, -2)
        aligned = align(theirs, tuple(right.shape))
        if aligned is None:
            shapes = f"is {list(theirs.shape)}, not {list(right.shape)}"
            judged(Finding(key, Verdict.UNKNOWN, note=shapes))
            return None
        judged(judge_block(key, aligned[0].float(), right.float().cpu(), aligned[1]))
        own = aligned[0].movedim(-3, -1) if of_frames else aligned[0]
        return own.reshape(result.shape).to(result, copy=True).contiguous()

    return hook
