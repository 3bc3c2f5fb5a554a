"""What `deploy/` has for machines without Kubernetes: Serve, Ray's launcher, Slurm, systemd."""

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click import ClickException
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from tests.deploy.environment import environment_faults
from tests.deploy.serving import serve_config, serve_faults
from tests.support.commands import CommandError, check_command
from tests.support.pages import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
HOME = "/opt/svd-farm"  # where the files say that the checkout is


def test_serve_takes_its_configuration() -> None:
    assert not [*serve_faults(serve_config())]


def launcher() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    return found


def test_the_launcher_takes_its_configuration(pytestconfig: pytest.Config) -> None:
    config = launcher()
    validate_config(prepare_config(config))
    lines = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert len([*_checked(lines, pytestconfig)]) == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("worker_start_commands", ["ray stop"]),
        ("idle_timeout_minutes", "two"),
        ("auth", {"ssh_usr": "farm"}),
        ("provider", {"type": "local", "head_address": "192.0.2.1"}),
    ],
)
def test_the_launcher_refuses_what_it_does_not_know(key: str, value: Any) -> None:
    with pytest.raises((jsonschema.ValidationError, ClickException)):
        validate_config(prepare_config(launcher() | {key: value}))


@pytest.mark.parametrize(
    "line",
    [
        f"set -a; {HOME}/.venv/bin/ray start --hed",
        f"{HOME}/.venv/bin/ray start --head --num-cpus none",
        f"{HOME}/.venv/bin/serve deploi {HOME}/deploy/serve.yaml",
        f"{HOME}/.venv/bin/serve deploy {HOME}/deploy/serve.yml",
    ],
)
def test_wrong_commands_of_machines_are_found(line: str, pytestconfig: pytest.Config) -> None:
    with pytest.raises(CommandError):
        [*_checked([line], pytestconfig)]


def _checked(lines: list[str], config: pytest.Config) -> Iterator[list[str]]:
    """The commands of Ray and Serve in a shell's lines. Raises CommandError for a wrong one."""
    for line in lines:
        for command in line.split(";"):
            words = shlex.split(command.partition(" > ")[0])
            if not words or words[0].rpartition("/")[2] not in ("ray", "serve"):
                continue
            for word in words[1:]:
                if word.startswith(HOME) and not (ROOT / word[len(HOME) + 1 :]).exists():
                    raise CommandError(f"there is no {word}")
            check_command(words, config)
            yield words


SLURM = (DEPLOY / "slurm.sh").read_text()
SYMMETRIC = re.compile(r"ray symmetric-run (.*?) -- (.*)", re.DOTALL)


def slurm_command(script: str) -> tuple[list[str], list[str]]:
    """The options of `ray symmetric-run` in a script, and the program that it runs."""
    found = SYMMETRIC.search(script.replace("\\\n", " "))
    assert found
    return shlex.split(found[1]), shlex.split(found[2])


def check_slurm(script: str, config: pytest.Config) -> None:
    options, program = slurm_command(script)
    own = options.index("--address"), options.index("--min-nodes")
    values = ["host:6379" if n == own[0] + 1 else "4" if n == own[1] + 1 else each
              for n, each in enumerate(options)]  # fmt: skip
    rest = curate_and_validate_ray_start_args(values)
    check_command(["ray", "start", *rest], config)
    check_command([*program[:-1], "a.png", "--out", "b"], config)
    assert program[-1] == "$@"


def test_slurms_script_is_right(pytestconfig: pytest.Config) -> None:
    subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], check=True)
    check_slurm(SLURM, pytestconfig)
    environment = dict(re.findall(r"export (\w+)=(\S+)", SLURM))
    assert not [*environment_faults("slurm.sh", environment)]
    lines = [line for line in SLURM.splitlines() if line.startswith("ray ")]
    assert len([*_checked(lines, pytestconfig)]) == 1


def shell_faults(script: str) -> str:
    program = Path(sysconfig.get_path("scripts")) / "shellcheck"
    return subprocess.run(
        [program, "-"], input=script, capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("#!/bin/bash", "#!/bin/bash", ""),
        ('"$head:6379"', "$head:6379", "SC2086"),
        ("export RAY_AUTH_MODE=token", "export RAY_AUTH_MODE=$tokn", "SC2154"),
        ("| head -n 1)", "| head -n 1", "SC1073"),
    ],
)
def test_shellcheck_reads_slurms_script(right: str, wrong: str, complaint: str) -> None:
    assert right in SLURM
    found = shell_faults(SLURM.replace(right, wrong))
    assert complaint in found if complaint else not found


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("--disable-usage-stats", "--disable-usage-stat"),
        ("--disable-usage-stats", "--block"),
        ("--min-nodes", "--min-node"),
        ("farm.batch", "farm.batches"),
    ],
)
def test_wrong_scripts_for_slurm_are_found(
    right: str, wrong: str, pytestconfig: pytest.Config
) -> None:
    assert right in SLURM
    with pytest.raises((CommandError, ValueError, ClickException)):
        check_slurm(SLURM.replace(right, wrong), pytestconfig)


def unit_faults(folder: Path, units: dict[str, str]) -> str:
    """What systemd says about units whose programs are those of this environment."""
    for name, text in units.items():
        (folder / name).write_text(text.replace(f"{HOME}/.venv", sys.prefix))
    verify = ["systemd-analyze", "verify", "--man=no", *(str(folder / name) for name in units)]
    return subprocess.run(verify, capture_output=True, text=True, check=False).stderr


@pytest.fixture
def units() -> dict[str, str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    return {unit.name: unit.read_text() for unit in UNITS}


def test_systemd_takes_the_units(tmp_path: Path, units: dict[str, str]) -> None:
    assert len(units) == 2
    assert unit_faults(tmp_path, units) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Restart=", "Restat="),
        ("Restart=always", "Restart=ever"),
        ("After=svd-farm-ray.service", "After=svd-farm-ray"),
        ("bin/ray start", "bin/rai start"),
    ],
)
def test_wrong_units_are_found(
    tmp_path: Path, units: dict[str, str], right: str, wrong: str
) -> None:
    assert right in "".join(units.values())
    broken = {name: text.replace(right, wrong) for name, text in units.items()}
    assert unit_faults(tmp_path, broken) != ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_start_what_there_is(unit: Path, pytestconfig: pytest.Config) -> None:
    text = unit.read_text()
    lines = [line.removeprefix("/bin/sh -c ").strip("'") for line in
             re.findall(r"^ExecStart(?:Pre)?=(.*)$", text, re.MULTILINE)]  # fmt: skip
    assert len([*_checked(lines, pytestconfig)]) == len(lines)
    pairs = " ".join(re.findall(r"^Environment=(.*)$", text, re.MULTILINE)).split()
    assert not [*environment_faults(unit.name, dict(pair.split("=", 1) for pair in pairs))]
