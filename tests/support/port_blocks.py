"""diffusers as somebody's port, whose blocks are recorded; and mistakes to plant in it."""

import re
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from svd_engine import Engine
from svd_engine.conformance.record import Recorder
from svd_engine.conformance.reference import load_reference, record_reference
from svd_engine.conformance.replay import Case
from svd_engine.conformance.traces import Trace, open_trace
from svd_engine.picture_pixels import fit_picture
from tests.support.traced import params_of

STEPS, FRAMES = 2, 2
README = Path(__file__).parents[2] / "svd_engine/README.md"
UNUSED = "vae.decoder.mid_block.attentions.0"  # in shallow, whose middle block has one layer
Mistake = Callable[[Any], object]


@dataclass
class Port:
    """diffusers as somebody's port: what it computes, and where a mistake can be made in it."""

    name: str  # of the checkpoint
    folder: Path
    engine: Engine
    picture: Image.Image

    def recorded(self, folder: Path, mistake: Mistake, dtype: torch.dtype) -> tuple[Case, Trace]:
        """A trace and the blocks of a render, in which `mistake` has changed the pipeline.

        The blocks are recorded in the folder by the README's own lines.
        """
        params = params_of(self.name, self.engine, num_inference_steps=STEPS, num_frames=FRAMES)
        pipeline = load_reference(self.folder, "cpu", dtype, None)
        mistake(pipeline)
        (folder / "blocks").mkdir()
        with chdir(folder):
            exec(recording_lines(), {"pipe": pipeline})
            trace = Recorder()
            record_reference(pipeline, self.picture, params, trace)
        assert params.width is not None
        assert params.height is not None
        image = fit_picture(self.picture, params.width, params.height, params.fit)
        case = Case(Trace(trace.tensors), self.engine, image, params, dtype)
        return case, open_trace(folder / "blocks")


def recording_lines() -> str:
    """The README's program that records blocks."""
    section = README.read_text().partition("### Inside a network")[2].partition("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(program)


def right(_pipeline: Any) -> None:
    """No mistake."""


def swap_halves(layer: Any) -> None:
    """Exchange the values and the gates of a GEGLU."""
    weight, bias = layer.proj.weight.data, layer.proj.bias.data
    layer.proj.weight.data = weight.roll(len(weight) // 2, 0)
    layer.proj.bias.data = bias.roll(len(bias) // 2, 0)


def turn_blend(mixer: Any) -> None:
    mixer.mix_factor.data = 1 - mixer.mix_factor.data


def double(layer: Any) -> None:
    layer.weight.data *= 2


def turn_kernel(layer: Any) -> None:
    layer.weight.data = layer.weight.data.transpose(-1, -2).contiguous()


def pad_both_sides(layer: Any) -> None:
    layer.padding, layer.conv.padding = 1, (1, 1)


# Where each mistake is, and how it is made in diffusers' pipeline.
MISTAKES: dict[str, Mistake] = {
    "clip.vision_model.encoder.layers.0": lambda p: double(
        p.image_encoder.vision_model.encoder.layers[0].mlp.fc1
    ),
    "vae.encoder.down_blocks.0.downsamplers.0": lambda p: pad_both_sides(
        p.vae.encoder.down_blocks[0].downsamplers[0]
    ),
    "unet.time_embedding": lambda p: double(p.unet.time_embedding.linear_1),
    "unet.down_blocks.0.resnets.0.spatial_res_block": lambda p: turn_kernel(
        p.unet.down_blocks[0].resnets[0].spatial_res_block.conv1
    ),
    "unet.mid_block.resnets.1": lambda p: turn_blend(p.unet.mid_block.resnets[1].time_mixer),
    "unet.mid_block.attentions.0.transformer_blocks.0": lambda p: swap_halves(
        p.unet.mid_block.attentions[0].transformer_blocks[0].ff.net[0]
    ),
    "unet.mid_block.attentions.0": lambda p: swap_halves(
        p.unet.mid_block.attentions[0].temporal_transformer_blocks[0].ff.net[0]
    ),
    "unet.up_blocks.0.upsamplers.0": lambda p: turn_kernel(p.unet.up_blocks[0].upsamplers[0].conv),
    UNUSED: lambda p: double(p.vae.decoder.mid_block.attentions[0].to_out[0]),
    "vae.decoder.up_blocks.1.resnets.0": lambda p: turn_blend(
        p.vae.decoder.up_blocks[1].resnets[0].time_mixer
    ),
}
