"""The environment variables of this process; no other module of the farm reads them."""

import os
import re
from pathlib import Path

PREFIX = "FARM_"
CONFIG = "FARM_CONFIG"  # the settings' file
CONFIG_NAME = "farm.toml"  # its name in the working directory, where FARM_CONFIG names none
# What Kubernetes sets in every container for a Service whose name begins with `farm`.
_OF_A_SERVICE = re.compile(
    r"FARM_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
# What decides how the farm's libraries work, for a report of a fault.
_TOLD = re.compile(
    r"(FARM|RAY|AWS|HF|HUGGINGFACE|CUDA|NVIDIA|NCCL|TORCH|PYTORCH|OMP|MKL|IMAGEIO|SSL)_\w+"
    r"|(https?|no|all)_proxy|PYTHONPATH|KUBERNETES_SERVICE_HOST|SLURM_JOB_ID",
    re.IGNORECASE,
)


def environment() -> dict[str, str]:
    """All variables."""
    return dict(os.environ)


def environment_for_reports() -> dict[str, str]:
    """The variables that decide how the farm and its libraries work, secrets included."""
    return {name: value for name, value in sorted(os.environ.items()) if _TOLD.fullmatch(name)}


def farm_variables() -> dict[str, str]:
    """The variables FARM_*, by their names in capitals, without those of a Kubernetes Service."""
    found = {name.upper(): value for name, value in os.environ.items()}
    return {
        name: value
        for name, value in found.items()
        if name.startswith(PREFIX) and not _OF_A_SERVICE.fullmatch(name)
    }


def config_file() -> Path | None:
    """The absolute path of the file that FARM_CONFIG names, or of `farm.toml` here, if any.

    The file that FARM_CONFIG names may be missing, which its reader reports.
    """
    if named := os.environ.get(CONFIG):
        return Path(named).expanduser().absolute()
    here = Path(CONFIG_NAME).absolute()
    return here if here.exists() else None


def data_folder() -> str:
    """The default store."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return f"file://{Path(base) / 'svd-farm'}"


def traces_endpoint() -> str:
    """Where spans are exported to, from OpenTelemetry's own variables; empty if nowhere."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return next(filter(None, map(os.environ.get, names)), "")


def ray_address() -> str:
    """The Ray cluster to join, from RAY_ADDRESS; `local` starts one for this process alone."""
    return os.environ.get("RAY_ADDRESS", "")


def set_ray_address(address: str) -> None:
    """Set RAY_ADDRESS for Ray in this process and for the processes that it starts."""
    os.environ["RAY_ADDRESS"] = address


def ray_environment() -> dict[str, str]:
    """The environment for Ray's command line: its cluster asks for a token unless turned off."""
    return {"RAY_AUTH_MODE": "token", **os.environ}
