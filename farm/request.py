"""What is asked: one clip of one picture. Frozen, validated, content-addressed."""

import hashlib

from pydantic import BaseModel, ConfigDict, Field, model_validator

import svd_engine
from svd_engine.params import Dtype, RenderDefaults, RenderParams

Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class Model(BaseModel):
    """Which weights, in which type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    variant: str | None = None
    dtype: Dtype = "float32"


class ModelFacts(BaseModel):
    """What a worker that can see a model says of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Sha256  # of its configs and weights
    defaults: RenderDefaults


class RenderRequest(BaseModel):
    """One clip, told by all that decides its pixels and by nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str = Sha256  # of the file's bytes
    weights: str = Sha256  # of the model's configs and weights
    dtype: Dtype
    engine: str = svd_engine.__version__
    params: RenderParams

    @model_validator(mode="after")
    def _resolved(self) -> "RenderRequest":
        params = self.params
        if params.width is None or params.height is None or params.num_frames is None:
            raise ValueError("params are open: resolve them with the model's defaults first")
        return self

    @property
    def digest(self) -> str:
        """The name of the result: equal requests have equal frames."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def digest_of(data: bytes) -> str:
    """sha256 as the farm writes it everywhere: 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
