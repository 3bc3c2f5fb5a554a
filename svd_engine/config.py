"""A checkpoint's configs, read from its JSON files. An unsupported value is an error.

Field names and defaults are those of diffusers' `register_to_config` classes. No torch.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from svd_engine.sizes import LATENT_CHANNELS, LATENT_SCALE

GROUPS = 32  # every GroupNorm of SVD has 32 groups

DownBlock = Literal["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"]
UpBlock = Literal["CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"]
PerBlock = int | tuple[int, ...]


def _check_channels(channels: tuple[int, ...]) -> None:
    if any(c % GROUPS for c in channels):
        raise ValueError(f"block_out_channels must be multiples of {GROUPS}, got {list(channels)}")


class _Config(BaseModel):
    # Unknown keys are ignored, as in diffusers; `config_files` warns about them.
    model_config = ConfigDict(frozen=True, extra="ignore")


class UNetConfig(_Config):
    """`unet/config.json` of `UNetSpatioTemporalConditionModel`."""

    sample_size: int | None = None
    in_channels: int = 2 * LATENT_CHANNELS
    out_channels: int = LATENT_CHANNELS
    down_block_types: tuple[DownBlock, ...] = (
        "CrossAttnDownBlockSpatioTemporal",
        "CrossAttnDownBlockSpatioTemporal",
        "CrossAttnDownBlockSpatioTemporal",
        "DownBlockSpatioTemporal",
    )
    up_block_types: tuple[UpBlock, ...] = (
        "UpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
    )
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    addition_time_embed_dim: int = 256
    projection_class_embeddings_input_dim: int = 768
    layers_per_block: PerBlock = 2
    cross_attention_dim: PerBlock = 1024
    transformer_layers_per_block: PerBlock = 1
    num_attention_heads: PerBlock = (5, 10, 20, 20)
    num_frames: int = 25

    @model_validator(mode="before")
    @classmethod
    def _not_distilled(cls, data: dict[str, Any]) -> dict[str, Any]:
        if data.get("time_cond_proj_dim") is not None:
            raise ValueError(
                "time_cond_proj_dim is an LCM's, distilled for a sampler that the engine does not "
                "have: give a model that is not distilled"
            )
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        blocks = len(self.block_out_channels)
        _check_channels(self.block_out_channels)
        lists = {name: getattr(self, name) for name in ("down_block_types", "up_block_types")}
        lists |= {name: value for name, value in self if isinstance(value, tuple)}
        for name, value in lists.items():
            if len(value) != blocks:
                raise ValueError(f"{name} has {len(value)} entries for {blocks} blocks")
        if self.projection_class_embeddings_input_dim != 3 * self.addition_time_embed_dim:
            raise ValueError(
                "projection_class_embeddings_input_dim must be 3 x addition_time_embed_dim "
                f"({3 * self.addition_time_embed_dim}): fps, motion bucket and augmentation; "
                f"got {self.projection_class_embeddings_input_dim}"
            )
        if self.in_channels != 2 * self.out_channels:
            raise ValueError(
                "in_channels must be twice out_channels (noise latents, then image latents), "
                f"got {self.in_channels} and {self.out_channels}"
            )
        for channels, heads in zip(
            self.block_out_channels, self.per_block("num_attention_heads"), strict=True
        ):
            if heads < 1 or channels % heads:
                raise ValueError(f"num_attention_heads: {heads} heads do not divide {channels}")
        return self

    def per_block(self, name: str) -> tuple[int, ...]:
        """The value of `name` for each down block; the JSON may hold one value for all blocks."""
        value = getattr(self, name)
        return (value,) * len(self.block_out_channels) if isinstance(value, int) else value


class VAEConfig(_Config):
    """`vae/config.json` of `AutoencoderKLTemporalDecoder`."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = Field(1, ge=1)
    latent_channels: int = LATENT_CHANNELS
    sample_size: int = 32
    scaling_factor: float = 0.18215
    force_upcast: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_channels(self.block_out_channels)
        if len(self.down_block_types) != len(self.block_out_channels):
            raise ValueError("down_block_types and block_out_channels differ in length")
        if self.downscale != LATENT_SCALE:
            raise ValueError(
                f"block_out_channels must have 4 entries, got {len(self.block_out_channels)}: "
                "SVD's latents are an eighth of the picture's size"
            )
        return self

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel, along each side."""
        return int(2 ** (len(self.block_out_channels) - 1))


class ScheduleConfig(BaseModel):
    """The part of `EulerDiscreteScheduler`'s JSON that sampling depends on.

    The beta schedule is not part of it, because Karras sigmas between given ends do not depend on
    it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    prediction_type: Literal["v_prediction"]
    timestep_type: Literal["continuous"]
    use_karras_sigmas: Literal[True]
    use_exponential_sigmas: Literal[False] | None = False
    use_beta_sigmas: Literal[False] | None = False
    final_sigmas_type: Literal["zero"] = "zero"
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "linspace"
    sigma_min: float = Field(gt=0)
    sigma_max: float = Field(gt=0)


class ClipConfig(BaseModel):
    """`image_encoder/config.json`, that of transformers' `CLIPVisionModelWithProjection`.

    Defaults are those of its `CLIPVisionConfig`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    # The picture is always resized to 224 x 224, whatever the tower's config says.
    image_size: Literal[224] = 224
    num_channels: Literal[3] = 3
    patch_size: int = Field(32, ge=1, le=224)
    hidden_size: int = Field(768, ge=1)
    intermediate_size: int = Field(3072, ge=1)
    num_hidden_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(12, ge=1)
    projection_dim: int = Field(512, ge=1)
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = Field(1e-5, gt=0)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        return self


class PreprocessorConfig(BaseModel):
    """The part of `feature_extractor/preprocessor_config.json` in use: the normalization."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    do_normalize: Literal[True] = True
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
