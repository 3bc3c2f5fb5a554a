"""What is asked: a picture, and parameters with nothing left open. Frozen, content-addressed."""

import hashlib
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field, model_validator

import svd_engine
from svd_engine.params import Dtype, RenderDefaults, RenderParams

Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
MAX_SEED = 2**64 - 1


class Model(BaseModel):
    """Which weights, in which type."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = "nano"
    variant: str | None = None
    dtype: Dtype = "float32"


class ModelFacts(BaseModel):
    """What a worker that can see a model says of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Sha256  # of its configs and weights
    defaults: RenderDefaults


class RenderRequest(BaseModel):
    """Clips of one picture, told by all that decides their pixels and by nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str = Sha256  # of the file's bytes
    weights: str = Sha256  # of the model's configs and weights
    dtype: Dtype
    engine: str = svd_engine.__version__
    params: RenderParams
    num_videos: int = Field(1, ge=1, le=1000, description="clips, with seeds from `seed` on")

    @model_validator(mode="after")
    def _resolved(self) -> "RenderRequest":
        params = self.params
        if any(getattr(params, name) is None for name in RenderDefaults.model_fields):
            raise ValueError("params are open: resolve them with the model's defaults first")
        if params.seed + self.num_videos - 1 > MAX_SEED:
            raise ValueError(f"num_videos: seeds from {params.seed} on would pass 2^64")
        return self

    @cached_property
    def digest(self) -> str:
        """The name of the result: equal requests have equal frames."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def clips(self) -> tuple["RenderRequest", ...]:
        """A request of one video for each seed."""
        seeds = range(self.params.seed, self.params.seed + self.num_videos)
        return tuple(
            self.model_copy(
                update={"params": self.params.model_copy(update={"seed": seed}), "num_videos": 1}
            )
            for seed in seeds
        )


def digest_of(data: bytes) -> str:
    """sha256 as the farm writes it everywhere: 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
