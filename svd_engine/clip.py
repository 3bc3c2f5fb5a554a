"""Computes a picture's embedding with CLIP's vision tower, as transformers implements it.

transformers takes twice as long to import as torch. It is imported only when a tower is built,
since a decoder, or reading a checkpoint's configs, does not need it.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection


def build_image_encoder(config: dict[str, object]) -> "CLIPVisionModelWithProjection":
    """Build the tower of `image_encoder/config.json` on the current default device."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config))


def restore_position_ids(model: "CLIPVisionModelWithProjection", device: torch.device) -> None:
    """Fill in the one buffer that checkpoints do not contain and that `meta` leaves empty."""
    embeddings = model.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]


def embed(model: "CLIPVisionModelWithProjection", pixels: Tensor) -> Tensor:
    """The embedding (1, 1, D) of normalized pixels (1, 3, 224, 224), in the model's dtype."""
    return model(pixels.to(model.device, model.dtype)).image_embeds[:, None]
