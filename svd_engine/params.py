"""The parameters of a clip. No torch: the farm reads this module without an engine."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from svd_engine.deviation_catalogue import checked_names, split_names
from svd_engine.sizes import LATENT_SCALE
from svd_engine.tiers import MAX_INTERVAL, TierName, check_interval, check_tier, with_tier
from svd_engine.values import Number, Whole, listed, number, stripped, whole

MAX_STEPS = 1000

DtypeName = Literal["float32", "float16", "bfloat16"]
Dtype = Annotated[DtypeName, BeforeValidator(stripped)]
Tier = Annotated[TierName, BeforeValidator(stripped)]
Fit = Annotated[Literal["stretch", "crop", "pad"], BeforeValidator(stripped)]
Side = Annotated[
    int, Strict(), Field(ge=LATENT_SCALE, le=8192, multiple_of=LATENT_SCALE), BeforeValidator(whole)
]
Frames = Annotated[int, Strict(), Field(ge=1, le=1024), BeforeValidator(whole)]
Motion = Annotated[int, Strict(), Field(ge=0, le=1023), BeforeValidator(whole)]
Chunk = Annotated[int, Strict(), Field(ge=1), BeforeValidator(whole)]
Guidance = Annotated[
    float, Strict(), Field(ge=0.0, le=1000.0, allow_inf_nan=False), BeforeValidator(number)
]
Deviations = Annotated[tuple[str, ...], AfterValidator(checked_names), BeforeValidator(split_names)]


class Lasting(BaseModel):
    """A model that is stored, and perhaps read by another version of this package.

    Validated with `extra="allow"`, it keeps fields that it does not know and writes them again.
    """

    @model_serializer(mode="wrap")
    def _whole(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**dump(self), **(self.__pydantic_extra__ or {})}


class RenderDefaults(BaseModel):
    """What a checkpoint renders where a request leaves it open; from `render_defaults.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Side = 1024
    height: Side = 576
    num_frames: Frames
    max_guidance_scale: Guidance = 3.0
    motion_bucket_id: Motion = 127


class RenderParams(Lasting):
    """The parameters of a clip, named as in `StableVideoDiffusionPipeline.__call__`.

    To add one, add a field here and use it where it acts; the README lists the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Side | None = Field(
        None, description="frame width in pixels, a multiple of 8 (default: the checkpoint's)"
    )
    height: Side | None = Field(
        None, description="frame height in pixels, a multiple of 8 (default: the checkpoint's)"
    )
    num_frames: Frames | None = Field(
        None, description="frames in the clip (default: the checkpoint's)"
    )
    num_inference_steps: Whole = Field(
        25,
        ge=1,
        le=MAX_STEPS,
        description="denoising steps, 10 in the tier `fast`; sigmas replace them",
    )
    sigmas: Annotated[tuple[Number, ...], BeforeValidator(listed)] | None = Field(
        None, description="falling noise levels; denoising ends at the last, which is usually 0"
    )
    tier: Tier = Field(
        "exact",
        description="exact, or an approximation: fast (10 steps placed by Align Your Steps) "
        "or reuse (see reuse_interval)",
    )
    reuse_interval: Whole = Field(
        1,
        ge=1,
        le=MAX_INTERVAL,
        description="compute only every Nth step in full; the steps between reuse its deep "
        "features; 2 in the tier `reuse`",
    )
    min_guidance_scale: Guidance = Field(1.0, description="guidance of the first frame")
    max_guidance_scale: Guidance | None = Field(
        None, description="guidance of the last frame (default: the checkpoint's; SVD's is 3.0)"
    )
    fps: Whole = Field(
        7, ge=1, le=240, description="frames per second of the motion and of the video"
    )
    motion_bucket_id: Motion | None = Field(
        None,
        description="amount of motion; trained on 0-255 (default: the checkpoint's; SVD's is 127)",
    )
    noise_aug_strength: Number = Field(
        0.02, ge=0.0, le=100.0, description="noise added to the picture"
    )
    decode_chunk_size: Chunk | None = Field(
        None, description="frames decoded at a time, which leaves seams (default: all)"
    )
    seed: Whole = Field(0, ge=0, lt=2**64, description="seed of all noise in the clip")
    fit: Fit = Field(
        "stretch", description="how a picture of another shape is fitted into the frame"
    )

    deviations: Deviations = Field(
        (), description="known mistakes to make, joined by +; see svd_engine/README.md"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_tier(cls, given: Any) -> Any:
        return with_tier(given) if isinstance(given, Mapping) else given

    @field_validator("tier")
    @classmethod
    def _tier_fits(cls, tier: TierName, info: ValidationInfo) -> TierName:
        return check_tier(tier, info.data.get("sigmas"))

    @field_validator("reuse_interval")
    @classmethod
    def _interval_fits(cls, interval: int, info: ValidationInfo) -> int:
        known = info.data
        if not {"tier", "sigmas", "num_inference_steps"} <= known.keys():
            return interval  # their own faults are reported already
        steps = _steps(known["sigmas"], known["num_inference_steps"])
        return check_interval(interval, known["tier"], steps)

    @field_validator("deviations")
    @classmethod
    def _karras_is_there(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "karras_off" in names and info.data.get("tier") == "fast":
            raise ValueError("karras_off does not go with the tier fast, which has its own sigmas")
        return names

    @field_validator("sigmas")
    @classmethod
    def _sigmas_fall(cls, sigmas: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if sigmas is None:
            return None
        if len(sigmas) < 2:
            raise ValueError("sigmas need at least two levels: where to start and where to end")
        if len(sigmas) > MAX_STEPS + 1:
            raise ValueError(f"sigmas may have {MAX_STEPS + 1} levels, got {len(sigmas)}")
        if not all(a > b for a, b in pairwise(sigmas)):
            raise ValueError(f"sigmas must fall at every step, got {list(sigmas)}")
        if sigmas[-1] < 0:
            raise ValueError(f"sigmas must not fall below 0, got {list(sigmas)}")
        return sigmas

    @property
    def steps(self) -> int:
        """The number of denoising steps that are run."""
        return _steps(self.sigmas, self.num_inference_steps)

    @property
    def frames(self) -> int:
        """Frames of the finished clip; ValueError if `num_frames` is open."""
        if self.num_frames is None:
            raise ValueError("num_frames is open: resolve the params first")
        return self.num_frames

    @property
    def motion(self) -> int:
        """The amount of motion; ValueError if `motion_bucket_id` is open."""
        if self.motion_bucket_id is None:
            raise ValueError("motion_bucket_id is open: resolve the params first")
        return self.motion_bucket_id

    @property
    def guidance(self) -> tuple[float, float]:
        """Guidance of the first and of the last frame; ValueError if it is open."""
        if self.max_guidance_scale is None:
            raise ValueError("max_guidance_scale is open: resolve the params first")
        return self.min_guidance_scale, self.max_guidance_scale

    @property
    def guided(self) -> bool:
        """Whether any frame is guided, so that the UNet runs on a pair.

        diffusers decides this in two places in two ways, and crashes where they differ (a minimum
        above 1 and a maximum that is not); here a single frame above 1 is enough.
        """
        return max(self.guidance) > 1.0

    def resolve(self, defaults: RenderDefaults) -> Self:
        """The same parameters, with the checkpoint's defaults where they are open."""
        own = {name: value for name, value in defaults if getattr(self, name) is None}
        return self.model_copy(update=own)


def _steps(sigmas: tuple[float, ...] | None, asked: int) -> int:
    return len(sigmas) - 1 if sigmas else asked
