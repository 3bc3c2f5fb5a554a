"""Checks of the GPUs, their driver, and whether torch's CUDA build fits them."""

import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel

from farm.doctor.check import Context, Finding, Findings, failed, ok, warning
from farm.doctor.probe import ProbeError, run_probe

SMI = ("--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader,nounits")
SMI_S = 10.0
TORCH_S = 60.0  # importing torch from a slow disk takes long
BUSY = 0.1  # the part of a GPU's memory from which on it counts as in use
RELOAD = "Load the driver again, which a restart of the machine does after an update."
CUDA_BUILD = "Install the CUDA build of torch for this driver, as pytorch.org says."


class DriverError(Exception):
    """What nvidia-smi says when it fails."""


class Gpu(NamedTuple):
    """A GPU as its driver describes it; memory in MiB."""

    name: str
    driver: str
    total: int
    used: int


class Torch(BaseModel):
    """What torch says of itself and of the GPUs (`torch_probe`)."""

    version: str
    cuda: str | None  # the CUDA that it is built for; None for a build without
    usable: bool
    why: str  # the warning with which it refuses a driver
    built_for: list[str]  # such as sm_90, compute_90
    capabilities: list[tuple[int, int]]  # of each GPU


def gpus(_context: Context) -> Findings:
    """The GPUs, and whether torch can use them."""
    try:
        found = _driver()
    except (OSError, subprocess.SubprocessError, DriverError) as error:
        yield failed(f"The NVIDIA driver does not answer: {error}.", RELOAD)
        return
    yield from judge(found, _torch())


def judge(found: Sequence[Gpu], torch: Torch) -> Findings:
    """What is to be said of the GPUs that the driver shows, and of torch's build."""
    if not found:
        if torch.usable:
            yield ok(f"torch {torch.version} finds {len(torch.capabilities)} GPUs by itself.")
        else:
            yield ok("There is no NVIDIA GPU here, so workers compute on the CPU.")
        return
    for gpu in found:
        yield _gpu(gpu)
    driver = found[0].driver
    if torch.cuda is None:
        yield failed(f"torch {torch.version} is a build without CUDA.", CUDA_BUILD)
    elif not torch.usable:
        yield failed(
            f"torch {torch.version}, built for CUDA {torch.cuda}, cannot use the GPUs with the "
            f"driver {driver}: {torch.why or 'it does not say why'}.",
            f"Update the driver. {CUDA_BUILD}",
        )
    else:
        yield _kernels(torch, driver)


def _gpu(gpu: Gpu) -> Finding:
    text = f"{gpu.name} has {gpu.total} MiB, of which {gpu.used} MiB are in use"
    if gpu.used > BUSY * gpu.total:
        return warning(
            f"{text}, by this farm or by another program.",
            "If no farm runs here, end the other program: nvidia-smi shows it.",
        )
    return ok(f"{text}.")


def _kernels(torch: Torch, driver: str) -> Finding:
    """Whether torch was built for all GPUs."""
    strange = [f"{m}.{n}" for m, n in torch.capabilities if not _fits(m, n, torch.built_for)]
    if strange:
        return failed(
            f"torch {torch.version} is built for {', '.join(torch.built_for)}, and has nothing "
            f"for GPUs of the compute capability {', '.join(strange)}.",
            "Install a version or build of torch that supports them, as pytorch.org says.",
        )
    return ok(f"torch {torch.version}, built for CUDA {torch.cuda}, fits the driver {driver}.")


def _fits(major: int, minor: int, built_for: Sequence[str]) -> bool:
    """Whether a build has code for a GPU: of its own major version, or that a driver compiles."""
    for text in built_for:
        kind, _, number = text.partition("_")
        digits = "".join(filter(str.isdecimal, number))
        there = int(digits[:-1] or 0), int(digits[-1:] or 0)
        if kind == "sm" and there[0] == major and there[1] <= minor:
            return True
        if kind == "compute" and there <= (major, minor):
            return True
    return False


def _driver() -> list[Gpu]:
    """The GPUs that nvidia-smi lists; empty without a driver. Raises what `gpus` catches."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    done = subprocess.run([program, *SMI], capture_output=True, text=True, timeout=SMI_S)
    if done.returncode:
        raise DriverError(done.stdout.strip() or done.stderr.strip())
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return [Gpu(name, driver, _mib(total), _mib(used)) for name, driver, total, used in rows]


def _mib(text: str) -> int:
    return int(text) if text.isdecimal() else 0  # [N/A] where the memory is the machine's own


def _torch() -> Torch:
    """What torch says. A broken driver can hang or kill the process that asks."""
    try:
        return Torch.model_validate(run_probe("farm.doctor.torch_probe", limit_s=TORCH_S))
    except ProbeError as error:
        raise RuntimeError(f"torch cannot be loaded: {error}") from error
