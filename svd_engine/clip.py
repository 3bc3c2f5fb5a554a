"""Picture to embedding, on transformers' CLIP vision tower."""

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


def build_image_encoder(config: dict[str, object]) -> CLIPVisionModelWithProjection:
    """The tower of `image_encoder/config.json`, on the device of the context it is called in."""
    return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config))


def restore_position_ids(model: CLIPVisionModelWithProjection, device: torch.device) -> None:
    """Fill in the tower's one buffer that no checkpoint carries and `meta` leaves empty."""
    embeddings = model.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]


def embed(model: CLIPVisionModelWithProjection, pixels: Tensor) -> Tensor:
    """Normalized pixels (1, 3, 224, 224) to the embedding (1, 1, D), in the model's dtype."""
    return model(pixels.to(model.device, model.dtype)).image_embeds[:, None]
