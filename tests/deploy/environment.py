"""Environment variables that a manifest sets, checked against the programs that read them."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import botocore
import pytest
import ray

from farm.errors import RequestError
from farm.settings import Settings, load_settings

SETTINGS = {f"FARM_{name.upper()}" for name in Settings.model_fields}
# Read by the operating system's and Python's own libraries, by the hub, and by the pod's scripts.
OTHERS = {"HOME", "HF_TOKEN", "POD_IP", "REDIS_PASSWORD", "PATH"}
SOURCES = {
    "RAY_": (Path(str(ray.__file__)).parent, ("_raylet.so", "_private/ray_constants.py")),
    "AWS_": (Path(str(botocore.__file__)).parent, ("configprovider.py", "credentials.py")),
}


def environment_faults(where: str, variables: Mapping[str, str | None]) -> Iterator[str]:
    """What is wrong with variables; the values of secrets are None."""
    for name in variables:
        prefix = name[:4]
        if name.startswith("FARM_"):
            if name not in SETTINGS:
                yield f"{where}: the farm has no setting {name}"
        elif prefix in SOURCES:
            if not _occurs(name, prefix):
                yield f"{where}: nothing reads {name}"
        elif name not in OTHERS:
            yield f"{where}: unknown variable {name}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            if name in SETTINGS and value is not None:
                patch.setenv(name, value)
        try:
            load_settings()
        except RequestError as error:
            yield f"{where}: {error}"


@cache
def _occurs(name: str, prefix: str) -> bool:
    folder, patterns = SOURCES[prefix]
    files = (path for pattern in patterns for path in folder.glob(pattern))
    word = re.compile(rf"\b{name}\b".encode())
    return any(word.search(path.read_bytes()) for path in files)
