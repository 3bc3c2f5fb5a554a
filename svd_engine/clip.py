"""CLIP's vision tower, which embeds the picture for the UNet's cross-attention.

Shapes: N pictures, L tokens (one for the class, then one for each patch), C channels, D embedding
width. Module names are those of transformers' `CLIPVisionModelWithProjection`, whose results it
gives to the last bit on a CPU. That class is not used, because importing transformers takes twice
as long as torch, and each worker and each command would wait for it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_engine.config import ClipConfig
from svd_engine.transformer import attend

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class Embeddings(nn.Module):
    """Turns pictures (N, 3, 224, 224) into tokens (N, L, C), with their positions added."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        channels, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(channels))
        self.patch_embedding = nn.Conv2d(config.num_channels, channels, patch, patch, bias=False)
        self.position_embedding = nn.Embedding(1 + (config.image_size // patch) ** 2, channels)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class Attention(nn.Module):
    """Multi-head attention of each picture over its own tokens: (N, L, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads))


class FeedForward(nn.Module):
    """Two linear layers with an activation between them: (N, L, C)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Attention and feed-forward, each added to its input: (N, L, C)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        channels, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = Attention(channels, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(channels, eps)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """All layers, one after another: (N, L, C)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class VisionTransformer(nn.Module):
    """Turns pictures (N, 3, 224, 224) into the token of the class (N, C), after all layers."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)  # sic
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
        return self.post_layernorm(tokens[:, 0])


class ImageEncoder(nn.Module):
    """`CLIPVisionModelWithProjection`, for inference on one device."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTransformer(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed normalized pictures (N, 3, 224, 224) as (N, D)."""
        return self.visual_projection(self.vision_model(pixels))


def embed(model: ImageEncoder, pixels: Tensor) -> Tensor:
    """The embedding (1, 1, D) of normalized pixels (1, 3, 224, 224), in the model's dtype."""
    return model(pixels.to(model.visual_projection.weight))[:, None]
