"""Checks of Python, of the installed packages, and of ffmpeg."""

import platform
import re
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from farm.doctor.check import Context, Findings, Unchecked, failed, ok, warning
from farm.masking import mask_urls
from farm.settings import traces_endpoint
from svd_engine.video import decode_video, encode_video

EXPORTER = "opentelemetry-exporter-otlp-proto-http"
PACKAGE = "svd-render-farm"
CONSTRAINTS = "constraints.txt"  # the exact versions that were tested
INSTALL = f"pip install -c deploy/{CONSTRAINTS} '{PACKAGE}[farm]'"
FRAMES = np.arange(4 * 32 * 32 * 3, dtype=np.uint32).reshape(4, 32, 32, 3).astype(np.uint8)


def python(_context: Context) -> Findings:
    """Whether the package may run on this version of Python."""
    version, wanted = platform.python_version(), _own()["Requires-Python"]
    if version not in SpecifierSet(wanted):
        yield failed(f"Python is {version}, and must be {wanted}.", "Install another Python.")
        return
    yield ok(f"Python is {version}, at {sys.executable}.")


def packages(_context: Context) -> Findings:
    """Whether the packages are in the ranges of pyproject.toml, and of the tested versions."""
    needed = _needed()
    there = {name: _version(name) for name in needed}
    missing = [name for name, version in there.items() if version is None]
    if missing:
        yield failed(f"These packages are missing: {', '.join(missing)}.", f"Run {INSTALL}.")
    for name, version in there.items():
        if version is not None and not needed[name].contains(version, prereleases=True):
            wanted = f"{name}{needed[name]}"
            yield failed(f"{name} is {version}, and must be {wanted}.", f"Run {INSTALL}.")
    tested = _tested()
    others = [
        f"{name} is {version}, and {tested[name]} was tested"
        for name, version in there.items()
        if version is not None and _base(version) != tested.get(name, _base(version))
    ]
    if others:
        yield warning(f"Versions differ from the tested ones: {'; '.join(others)}.", INSTALL + ".")
    elif not missing:
        versions = ", ".join(f"{name} {there[name]}" for name in ("ray", "torch", "boto3"))
        yield ok(f"All {len(there)} packages have the tested versions, such as {versions}.")


def ffmpeg(_context: Context) -> Findings:
    """Whether ffmpeg encodes and decodes a small video as the farm does."""
    try:
        frames = decode_video(encode_video(FRAMES, 7))
    except (OSError, RuntimeError, ValueError) as error:
        yield failed(
            f"ffmpeg does not encode a video: {error}.",
            "Unset IMAGEIO_FFMPEG_EXE, so that the one of the package imageio-ffmpeg is used, or "
            "name one that has libx264.",
        )
        return
    if frames.shape != FRAMES.shape:
        yield failed(
            f"ffmpeg makes {len(frames)} frames out of {len(FRAMES)}.", "Install another ffmpeg."
        )
        return
    yield ok("ffmpeg encodes and decodes a small video.")


def traces(_context: Context) -> Findings:
    """Whether traces can be exported, if OpenTelemetry's variables name a collector."""
    endpoint = mask_urls(traces_endpoint())
    if not endpoint:
        yield ok("No traces are exported, as OTEL_EXPORTER_OTLP_ENDPOINT is not set.")
    elif _version(EXPORTER) is None:
        yield warning(
            f"Traces are not exported to {endpoint}, as {EXPORTER} is not installed.",
            f"Run {INSTALL.replace('[farm]', '[tracing]')} on every node.",
        )
    else:
        yield ok(f"Traces are exported to {endpoint}.")


def versions() -> dict[str, str]:
    """The versions of this package and of what it needs, as far as they are installed."""
    found = {PACKAGE: _version(PACKAGE)} | {name: _version(name) for name in _needed()}
    own = {"python": platform.python_version(), "platform": platform.platform()}
    return own | {name: version for name, version in found.items() if version is not None}


def _own() -> metadata.PackageMetadata:
    try:
        return metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError as error:
        text = f"{PACKAGE} is not installed as a package, so what it needs is not known."
        raise Unchecked(text) from error


def _needed() -> dict[str, SpecifierSet]:
    """What the engine and the farm need, from the installed package's own description."""
    wanted = [Requirement(text) for text in _own().get_all("Requires-Dist") or ()]
    own = [
        each for each in wanted if each.marker is None or each.marker.evaluate({"extra": "farm"})
    ]
    return {_normal(each.name): each.specifier for each in own}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _tested() -> dict[str, str]:
    """The tested versions by name. The file is in the checkout, or beside an installation."""
    checkout = Path(__file__).parents[2] / "deploy" / CONSTRAINTS
    installed = [
        file.locate() for file in metadata.files(PACKAGE) or () if file.name == CONSTRAINTS
    ]
    file = next(
        (Path(str(each)) for each in (checkout, *installed) if Path(str(each)).exists()), None
    )
    if file is None:
        raise Unchecked(f"The list of tested versions, {CONSTRAINTS}, is not installed here.")
    lines = re.findall(r"^([\w.-]+)==(\S+)$", file.read_text(), re.MULTILINE)
    return {_normal(name): version for name, version in lines}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _base(version: str) -> str:
    """A version without the build that follows the plus, such as torch's `+cu128`."""
    return version.partition("+")[0]
