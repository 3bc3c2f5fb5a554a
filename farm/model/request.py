"""What a client asks for: a picture and fully resolved parameters. Frozen and content-addressed."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from svd_engine import NUMERICS
from svd_engine.params import Dtype, Lasting, RenderDefaults, RenderParams

Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
MAX_SEED = 2**64 - 1
# Defaults of parameters that once were the same for all models. They are still left out of digests,
# or the records of earlier versions would have other names.
ONCE_DEFAULTS = {"motion_bucket_id": 127}
UNCOUNTED = 0  # stands for the numerics of records that are older than NUMERICS


class Model(Lasting):
    """The weights to render with, and their type."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field("nano", description="the model, one of those that the farm offers")
    variant: str | None = Field(None, description="which weights of the model, such as fp16")
    dtype: Dtype = Field("float32", description="the type of the weights")


class ModelFacts(BaseModel):
    """What a worker that has access to a model reports about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Sha256  # of its configs and weights
    defaults: RenderDefaults
    warnings: tuple[str, ...] = ()  # settings in its files that have no effect


class RenderRequest(Lasting):
    """Clips of one picture: everything that determines their pixels, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str = Sha256  # of the file's bytes
    weights: str = Sha256  # of the model's configs and weights
    dtype: Dtype
    numerics: int = NUMERICS  # of the engine that renders it
    params: RenderParams
    num_videos: int = Field(1, ge=1, le=1000, description="clips, with seeds from `seed` on")

    @model_validator(mode="before")
    @classmethod
    def _of_a_version(cls, given: Any) -> Any:
        """Records that are older than NUMERICS have the package's version instead."""
        if isinstance(given, dict) and "engine" in given:
            return {"numerics": UNCOUNTED} | {k: v for k, v in given.items() if k != "engine"}
        return given

    @model_validator(mode="after")
    def _resolved(self) -> "RenderRequest":
        params = self.params
        if any(getattr(params, name) is None for name in RenderDefaults.model_fields):
            raise ValueError("params are open: resolve them with the model's defaults first")
        check_seeds(params.seed, self.num_videos)
        return self

    @cached_property
    def digest(self) -> str:
        """The name of the result: requests with equal digests have equal frames.

        A parameter that has its default is left out, so that a later version can add one without
        renaming the clips in the store. Hence a default may change only together with NUMERICS,
        which are always included.
        """
        return _digest({**self._given, "numerics": self.numerics})

    @cached_property
    def asked(self) -> str:
        """The digest of what is asked for, whichever numerics it is rendered with."""
        return _digest(self._given)

    def model_copy(
        self, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> "RenderRequest":
        """Like pydantic's method, which would also copy the cached digests."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("digest", "asked"):
            copied.__dict__.pop(name, None)
        return copied

    @property
    def _given(self) -> dict[str, Any]:
        """All fields but the numerics that differ from their defaults."""
        given = _not_default(self) | {"params": _not_default(self.params)}
        given.pop("numerics", None)
        return given

    def clips(self) -> tuple["RenderRequest", ...]:
        """A request of one video for each seed."""
        if self.num_videos == 1:
            return (self,)
        seeds = range(self.params.seed, self.params.seed + self.num_videos)
        return tuple(
            self.model_copy(
                update={"params": self.params.model_copy(update={"seed": seed}), "num_videos": 1}
            )
            for seed in seeds
        )

    def includes(self, clip: "RenderRequest") -> bool:
        """Whether a request of one video is one of `clips`."""
        first, seed = self.params.seed, clip.params.seed
        if clip.picture != self.picture or not first <= seed < first + self.num_videos:
            return False
        params = self.params.model_copy(update={"seed": seed})
        return self.model_copy(update={"params": params, "num_videos": 1}).digest == clip.digest


def check_seeds(first: int, count: int) -> None:
    """Raise ValueError if the last of `count` consecutive seeds would be too large."""
    if first + count - 1 > MAX_SEED:
        raise ValueError(f"num_videos: seeds from {first} on would pass 2^64")


def _not_default(model: BaseModel) -> dict[str, Any]:
    defaults = _defaults(type(model))
    return {name: v for name, default in defaults.items() if (v := getattr(model, name)) != default}


@cache
def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    own = {name: field.get_default() for name, field in kind.model_fields.items()}
    return own | ONCE_DEFAULTS if issubclass(kind, RenderParams) else own


def _digest(values: dict[str, Any]) -> str:
    return digest_of(json.dumps(values, sort_keys=True).encode())


def digest_of(data: bytes) -> str:
    """The sha256 in the form that the farm uses everywhere: 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
