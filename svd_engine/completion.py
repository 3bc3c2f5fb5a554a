"""`--completion SHELL`: print a script by which a shell completes a command line."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from svd_engine.params import RenderParams

SHELLS = ("bash", "zsh")
# What a value is, by the word for it in the help.
_FILES = {"DEST", "FILE", "PATH", "PICTURE", "PICTURES", "PNG", "A", "B", "THEIRS"}
_FOLDERS = {"DIR", "FOLDER"}
_NAMES = {
    "model": ("nano", "tiny", "svd", "svd-xt", "svd-xt-1.1"),
    "device": ("cpu", "cuda", "mps", "xpu"),
    "preset": ("tiny", "nano", "cpu-mid", "svd", "svd-xt"),
}


def add_completion(parser: argparse.ArgumentParser, script: str) -> None:
    """Add the option. script: the name by which an installation runs the command."""

    class PrintScript(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *given: Any, **_: Any) -> None:
            sys.stdout.write(completion_script(parser, script, given[1]) + "\n")
            parser.exit()

    parser.add_argument(
        "--completion",
        action=PrintScript,
        choices=SHELLS,
        help=f"print a script with which bash or zsh completes the arguments of {script}",
    )


def completion_script(parser: argparse.ArgumentParser, script: str, shell: str) -> str:
    """The script for a shell. It is printed by a program that then ends: the parser is changed."""
    import shtab  # only who asks for a script needs it

    parser.prog = script
    kinds: dict[str, Any] = {}
    kinds |= dict.fromkeys(_FILES, shtab.FILE) | dict.fromkeys(_FOLDERS, shtab.DIRECTORY)
    for action in _actions(parser):
        if action.metavar in kinds and not action.choices:
            vars(action)["complete"] = kinds[str(action.metavar)]
        elif names := _names_of(action):
            action.choices = names
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All actions of a parser, and of those of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)


def _names_of(action: argparse.Action) -> tuple[str, ...]:
    """The values of an option without `choices`: a batch takes several values at once."""
    field = RenderParams.model_fields.get(action.dest)
    if field is not None and get_origin(field.annotation) is Literal:
        return get_args(field.annotation)
    if field is not None and field.annotation is bool:
        return ("true", "false")
    return () if action.choices else _NAMES.get(action.dest, ())
