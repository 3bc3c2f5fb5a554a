"""The farm's settings, from variables FARM_*. The only reader of the environment in the farm."""

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from farm.errors import RequestError
from farm.model.request import Sha256
from farm.store.keys import Name
from svd_engine.picture import MAX_PIXELS


def _data_folder() -> str:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return f"file://{Path(base) / 'svd-farm'}"


def _whsec(secret: SecretStr) -> SecretStr:
    kind, _, text = secret.get_secret_value().partition("_")
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if kind != "whsec" or not 24 <= len(key) <= 64:
        raise ValueError("give whsec_ and the base64 of 24 to 64 bytes that were drawn by chance")
    return secret


def _host(pattern: str) -> str:
    if not re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", pattern.lower()):
        raise ValueError("give names of hosts, as pictures.example or *.example")
    return pattern.lower()


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("give the URL of an S3 server, as https://s3.example.com")
    return url


class Key(BaseModel):
    """What a bearer key may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Name
    operator: bool = False  # sees the workers, and may drain them
    per_minute: float | None = Field(None, gt=0)  # requests


Keys = dict[Annotated[str, Sha256], Key]
KEYS = TypeAdapter(Keys)


class Settings(BaseSettings):
    """What an operator may set; each is FARM_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="FARM_", frozen=True, extra="forbid")

    store: str = Field(default_factory=_data_folder)  # the farm's only lasting memory
    workers: int | None = Field(None, ge=1)  # default: one per GPU, or one per node without any
    max_jobs: int = Field(10_000, ge=1)  # open at once in all; what a tenant's share is taken of
    max_jobs_per_tenant: int | None = Field(None, ge=1)  # default: max_jobs
    max_work: int = Field(10**13, ge=1)  # steps x pixels x frames x videos open, by tenant
    max_gpus: dict[Name, int] = {}  # workers at once, by tenant; as JSON
    max_pixels: int = Field(MAX_PIXELS, ge=64, le=MAX_PIXELS)  # of a picture
    stall_s: float = Field(1800.0, gt=0)  # without a step or an end, until a task counts as lost
    load_s: float = Field(600.0, gt=0)  # for a worker to start, and to load a model
    compile: bool = False  # networks run by `svd_engine.optimize`
    segment_steps: int = Field(5, ge=1)  # denoising steps between two checkpoints
    keys: Keys = {}  # by the sha256 of a bearer key, as JSON
    keys_file: Path | None = None  # of such JSON: what is changed there holds within 10 s
    # That may be asked for over HTTP, the default first.
    models: tuple[str, ...] = ("nano", "tiny", "svd", "svd-xt", "svd-xt-1.1")
    cors_origins: tuple[str, ...] = ()  # whose pages may ask, beside the farm's own
    max_body: int = Field(64 * 2**20, ge=1024)  # bytes of an HTTP request
    # That pictures may be fetched from, `*.` for all below a name; redirects included.
    picture_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()
    # Where clients reach the S3 server; without it clips pass through the farm.
    s3_public_endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    webhook_secret: Annotated[SecretStr, AfterValidator(_whsec)] | None = None  # as whsec_BASE64
    webhook_private: bool = False  # webhooks may go to this machine and its network


def ray_address() -> str:
    """RAY_ADDRESS: the Ray cluster to join; `local` for one of this process's own."""
    return os.environ.get("RAY_ADDRESS", "")


def set_ray_address(address: str) -> None:
    """Let what this process starts, and `serve run` around it, join that cluster."""
    os.environ["RAY_ADDRESS"] = address


def ray_environment() -> dict[str, str]:
    """What Ray's own commands are run with: a cluster asks for a token, unless that is set off."""
    return {"RAY_AUTH_MODE": "token", **os.environ}


def _got(fault: Mapping[str, Any]) -> str:
    return "" if fault["loc"][0] == "webhook_secret" else f", got {fault['input']!r}"


def load_settings(**given: Any) -> Settings:
    """The settings; what is given (and not None) wins. RequestError names the one at fault."""
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        faults = (
            f"FARM_{str(fault['loc'][0]).upper()}: {fault['msg']}{_got(fault)}"
            for fault in error.errors()
        )
        raise RequestError("; ".join(faults)) from error
    except Exception as error:  # pydantic-settings' own, for a value that is not JSON
        raise RequestError(f"settings: {error}") from error
    if "://" in settings.store:
        return settings
    # A worker's working directory is not this one.
    store = f"file://{Path(settings.store).expanduser().absolute()}"
    return settings.model_copy(update={"store": store})


class Address(BaseSettings):
    """Which farm a Python program speaks to, from FARM_URL and FARM_API_KEY."""

    model_config = SettingsConfigDict(env_prefix="FARM_", env_ignore_empty=True, frozen=True)

    url: str | None = None  # of a server, as http://host:8000; else the Ray cluster's own farm
    api_key: str | None = None
