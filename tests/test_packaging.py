"""The engine installs alone, the farm with the extra `farm`, and whoever lacks it is told so."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import farm

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIG["project"]
# Modules that have another name than their distribution.
MODULES = {"pillow": "PIL", "python-multipart": "python_multipart"}
OPTIONAL = {
    "diffusers",
    "triton",
    "matplotlib",
    "mypy_boto3_s3",
    "opentelemetry",  # of the extra `tracing`
    "psutil",
}  # loaded where there is one
LOADED_BY_NAME = {"python_multipart", "fastapi_offline"}
# By which requirement others come.
BROUGHT = {
    "aiohttp": "ray",
    "anyio": "fastapi",
    "botocore": "boto3",
    "packaging": "ray",
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
}


def modules(requirements: list[str]) -> set[str]:
    names = [re.split(r"[\[<>=~ ]", text)[0] for text in requirements]
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def imported(package: str) -> set[str]:
    """The modules that a package's files import, by the first part of their names."""
    found: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - OPTIONAL


ENGINE = modules(PROJECT["dependencies"])
FARM = modules(PROJECT["optional-dependencies"]["farm"])


def test_the_engine_needs_what_it_installs() -> None:
    assert imported("svd_engine") == ENGINE | {"svd_engine"}


def test_the_farm_needs_what_its_extra_installs_and_the_engine() -> None:
    needed = {BROUGHT.get(name, name) for name in imported("farm")}
    assert needed <= ENGINE | FARM | {"farm", "svd_engine"}
    assert needed | LOADED_BY_NAME >= FARM


def test_whoever_lacks_part_of_the_extra_is_told_its_name() -> None:
    assert set(farm.NEEDED) == FARM
    for name in ("ray", "tenacity"):
        code = f"import sys; sys.modules[{name!r}] = None; import farm"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 1
        message = f"does not ({name}): pip install 'svd-render-farm[farm]'"
        assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("script", PROJECT["scripts"])
def test_console_scripts_are_there(script: str) -> None:
    module, _, function = PROJECT["scripts"][script].partition(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("package", ["svd_engine", "farm"])
def test_packages_are_typed_and_their_files_are_installed(package: str) -> None:
    patterns = CONFIG["tool"]["setuptools"]["package-data"]
    assert "py.typed" in patterns[package]
    assert (ROOT / package / "py.typed").exists()
    installed = {
        path
        for name, globs in patterns.items()
        for pattern in globs
        for path in (ROOT / name.replace(".", "/")).glob(pattern)
    }
    others = {
        path
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "README.md"
    }
    assert others <= installed
