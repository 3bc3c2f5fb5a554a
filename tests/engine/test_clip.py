"""CLIP's vision tower against transformers, to the last bit."""

from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from svd_engine.clip import ImageEncoder, embed
from svd_engine.config import ClipConfig

SHAPES: dict[str, dict[str, Any]] = {
    "defaults": {"num_hidden_layers": 2},
    "patches of 14": {
        "hidden_act": "gelu",
        "hidden_size": 96,
        "intermediate_size": 200,
        "num_attention_heads": 6,
        "num_hidden_layers": 3,
        "patch_size": 14,
        "projection_dim": 48,
        "layer_norm_eps": 1e-3,
    },
    "a patch that leaves a rest": {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "patch_size": 50,
    },
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_it_gives_what_transformers_gives(shape: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    theirs: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**SHAPES[shape]))
    ours = ImageEncoder(ClipConfig.model_validate(SHAPES[shape]))
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(1, 3, 224, 224)
    expected = theirs.to(dtype).eval()(pixels.to(dtype)).image_embeds
    assert torch.equal(embed(ours.to(dtype), pixels)[0], expected)
