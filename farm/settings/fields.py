"""The fields of the farm's settings: their names, types, limits and defaults."""

import base64
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from farm.logs import LogFormat
from farm.model.request import Sha256
from farm.model.retention import Policy
from farm.settings.environment import PREFIX, config_file, data_folder
from farm.settings.file import File
from farm.store.keys import Name
from svd_engine.picture_files import MAX_PIXELS


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
    """The settings of a farm: from arguments, the environment, the settings' file, or defaults.

    The variable of each is FARM_ and its name in capitals.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    store: str = Field(default_factory=data_folder)  # a folder or s3:// URL for all lasting data
    workers: int | None = Field(None, ge=1)  # default: one per GPU, or per node without GPUs
    # What a node is asked of Ray's autoscaler for, as JSON. If it is set, workers follow demand.
    elastic: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0)]] = {}
    idle_s: float = Field(300.0, ge=0)  # how long a node then keeps workers that are not needed
    max_jobs: int = Field(10_000, ge=1)  # open jobs of all tenants
    max_jobs_per_tenant: int | None = Field(None, ge=1)  # open jobs; default: max_jobs
    max_work: int = Field(10**13, ge=1)  # steps x pixels x frames x videos of a tenant's open jobs
    max_gpus: dict[Name, int] = {}  # the most workers at once by tenant, as JSON
    # By tenant; `*` stands for all others. As JSON.
    max_gpu_seconds: dict[Name | Literal["*"], Annotated[float, Field(gt=0)]] = {}  # a day, UTC
    max_stored_bytes: dict[Name | Literal["*"], Annotated[int, Field(gt=0)]] = {}
    # How long finished jobs are kept, with their clips and pictures; default: for ever.
    keep_days: float | None = Field(None, gt=0)
    keep_bytes: int | None = Field(None, ge=0)  # of all finished jobs; the oldest are deleted
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
    log_format: LogFormat = "console"  # of the lines of the log: for people, or JSON
    webhook_private: bool = False  # whether webhooks may go to this machine and its network

    @property
    def retention(self) -> Policy:
        """Which finished jobs are kept."""
        days = self.keep_days
        return Policy(None if days is None else days * 24 * 3600.0, self.keep_bytes)

    def gpu_seconds_of(self, tenant: str) -> float | None:
        """The GPU seconds that a tenant may use on a day; None for no limit."""
        return self.max_gpu_seconds.get(tenant, self.max_gpu_seconds.get("*"))

    def stored_bytes_of(self, tenant: str) -> int | None:
        """The bytes that a tenant may store; None for no limit."""
        return self.max_stored_bytes.get(tenant, self.max_stored_bytes.get("*"))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources in the order of their precedence."""
        file = config_file()
        return (init_settings, env_settings, *([File(settings_cls, file)] if file else []))


class Address(BaseSettings):
    """The farm that a Python program uses, from FARM_URL and FARM_API_KEY."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    url: str | None = None  # a server like http://host:8000; default: the farm of the Ray cluster
    api_key: str | None = None
