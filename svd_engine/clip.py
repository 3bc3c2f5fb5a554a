"""Picture to embedding, on transformers' CLIP vision tower.

transformers is loaded with the first tower: it takes twice as long as torch, and a decoder or a
look at a checkpoint needs none of it.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection


def build_image_encoder(config: dict[str, object]) -> "CLIPVisionModelWithProjection":
    """The tower of `image_encoder/config.json`, on the device of the context it is called in."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config))


def restore_position_ids(model: "CLIPVisionModelWithProjection", device: torch.device) -> None:
    """Fill in the tower's one buffer that no checkpoint carries and `meta` leaves empty."""
    embeddings = model.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]


def embed(model: "CLIPVisionModelWithProjection", pixels: Tensor) -> Tensor:
    """Normalized pixels (1, 3, 224, 224) to the embedding (1, 1, D), in the model's dtype."""
    return model(pixels.to(model.device, model.dtype)).image_embeds[:, None]
