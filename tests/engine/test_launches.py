"""The kernels that a UNet step launches on the published config: none only copies a tensor."""

import pytest
import torch
import torch.nn.functional as F

from svd_engine.bench.launches import Launches, _Counting, count_step
from svd_engine.bench.networks import PRESETS


def test_a_change_of_layout_is_told_from_other_copies() -> None:
    launches, x = Launches(), torch.ones(3, 4)
    with _Counting(launches):
        x.t().contiguous()
        assert launches.layout_copies.total() == 1
        torch.empty(4, 3).copy_(x.t())
        assert launches.layout_copies.total() == 2
        x.clone()
        x.t().clone()  # keeps its layout
        x.t().reshape(-1, 1, 4)  # the same order of memory cannot be had
        x[:1].expand(3, 4).contiguous()
        x.half()
    assert launches.layout_copies.total() == 3
    assert launches.total == 7


def test_convolutions_keep_channels_last() -> None:
    """As is taken for granted on `meta`, which forgets it."""
    x = torch.ones(2, 32, 6, 5).contiguous(memory_format=torch.channels_last)
    for y in (
        F.conv2d(x, torch.ones(64, 32, 3, 3)),
        F.conv_transpose2d(x, torch.ones(32, 64, 4, 4), stride=2),
    ):
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_no_layout_copy_in_a_step_of_the_published_network() -> None:
    pytest.importorskip("triton")
    preset = PRESETS["svd-xt"]
    launches = count_step(preset.unet_config, preset.params, on_gpu=True)
    assert not launches.layout_copies
    assert launches.of["aten::convolution"] == 52
    assert launches.of["triton::_convolve_clips"] == 44
    assert launches.of["triton::_geglu"] == 48
    assert launches.total <= 1100


def test_on_a_cpu_frames_are_copied_for_attention_along_them_alone() -> None:
    preset = PRESETS["tiny"]
    launches = count_step(preset.unet_config, preset.params, on_gpu=False)
    places = {place.partition(" ")[2] for place in launches.layout_copies}
    assert places == {"attend_frames", "attend_frames.<locals>.<genexpr>"}
    assert not [name for name in launches.of if name.startswith("triton")]
