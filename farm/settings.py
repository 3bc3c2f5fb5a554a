"""The farm's settings, which come from environment variables FARM_*.

No other module of the farm reads the environment.
"""

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
from svd_engine.picture_files import MAX_PIXELS


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
        raise ValueError("give whsec_ and the base64 of 24 to 64 random bytes")
    return secret


def _host(pattern: str) -> str:
    if not re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", pattern.lower()):
        raise ValueError("give host names, like pictures.example or *.example")
    return pattern.lower()


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("give the URL of an S3 server, like https://s3.example.com")
    return url


class Key(BaseModel):
    """The owner and the rights of a bearer key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Name
    operator: bool = False  # whether it may see and drain workers
    per_minute: float | None = Field(None, gt=0)  # requests; default: no limit


Keys = dict[Annotated[str, Sha256], Key]
KEYS = TypeAdapter(Keys)


class Settings(BaseSettings):
    """The settings of a farm. The variable of each is FARM_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="FARM_", frozen=True, extra="forbid")

    store: str = Field(default_factory=_data_folder)  # a folder or s3:// URL for all lasting data
    workers: int | None = Field(None, ge=1)  # default: one per GPU, or per node without GPUs
    max_jobs: int = Field(10_000, ge=1)  # open jobs of all tenants
    max_jobs_per_tenant: int | None = Field(None, ge=1)  # open jobs; default: max_jobs
    max_work: int = Field(10**13, ge=1)  # steps x pixels x frames x videos of a tenant's open jobs
    max_gpus: dict[Name, int] = {}  # the most workers at once by tenant, as JSON
    max_pixels: int = Field(MAX_PIXELS, ge=64, le=MAX_PIXELS)  # the most in a picture
    stall_s: float = Field(1800.0, gt=0)  # seconds without a step until a task counts as lost
    load_s: float = Field(600.0, gt=0)  # seconds for a worker to start and load a model
    compile: bool = False  # whether `svd_engine.optimize` compiles the networks
    segment_steps: int = Field(5, ge=1)  # denoising steps between two checkpoints
    keys: Keys = {}  # as JSON, by the sha256 of each bearer key
    keys_file: Path | None = None  # a file with such JSON; changes take effect within 10 s
    # The models that HTTP clients may ask for; the first is the default.
    models: tuple[str, ...] = ("nano", "tiny", "svd", "svd-xt", "svd-xt-1.1")
    cors_origins: tuple[str, ...] = ()  # the other origins whose pages may call the farm
    max_body: int = Field(64 * 2**20, ge=1024)  # bytes of an HTTP request
    # The hosts that pictures may be fetched from; `*.example` stands for all names below it.
    picture_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()
    # The URL at which clients reach the S3 server; without it, clips pass through the farm.
    s3_public_endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    webhook_secret: Annotated[SecretStr, AfterValidator(_whsec)] | None = None  # whsec_BASE64
    webhook_private: bool = False  # whether webhooks may go to this machine and its network


def ray_address() -> str:
    """The Ray cluster to join, from RAY_ADDRESS; `local` starts one for this process alone."""
    return os.environ.get("RAY_ADDRESS", "")


def set_ray_address(address: str) -> None:
    """Set RAY_ADDRESS for Ray in this process and for the processes that it starts."""
    os.environ["RAY_ADDRESS"] = address


def ray_environment() -> dict[str, str]:
    """The environment for Ray's command line: its cluster asks for a token unless turned off."""
    return {"RAY_AUTH_MODE": "token", **os.environ}


def _got(fault: Mapping[str, Any]) -> str:
    return "" if fault["loc"][0] == "webhook_secret" else f", got {fault['input']!r}"


def load_settings(**given: Any) -> Settings:
    """Read the settings; `given` values that are not None take precedence.

    Raises RequestError, which names the setting at fault. The store is always returned as a URL.
    """
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
    # Made absolute, because workers have another working directory.
    store = f"file://{Path(settings.store).expanduser().absolute()}"
    return settings.model_copy(update={"store": store})


class Address(BaseSettings):
    """The farm that a Python program uses, from FARM_URL and FARM_API_KEY."""

    model_config = SettingsConfigDict(env_prefix="FARM_", env_ignore_empty=True, frozen=True)

    url: str | None = None  # a server like http://host:8000; default: the farm of the Ray cluster
    api_key: str | None = None
