"""What all command lines share: exit statuses, names, and errors that suggest the name meant.

0: success, and nothing wrong was found. 1: the command failed, or it found something wrong. 2:
wrong usage, or an input that cannot be read. 130: interrupted.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from svd_engine.nearest import did_you_mean, no_such

STATUSES = "exit status: 0 done, 1 it failed, 2 wrong usage or an input that cannot be read"


class InputError(ValueError):
    """An input cannot be read: exit status 2."""


@contextmanager
def reading() -> Iterator[None]:
    """While reading inputs, turn the operating system's errors into InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(str(error)) from error


def positive(text: str) -> int:
    """The argparse type of a whole number from 1."""
    if not (text.isascii() and text.isdecimal()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def run(command: Callable[[], int]) -> int:
    """Run a command, and return its exit status. An error is reported on one line."""
    try:
        return command()
    except ValueError as error:
        say(error)
        return 2
    except (OSError, RuntimeError, AssertionError, ImportError) as error:
        say(error)  # RuntimeError and AssertionError are torch's
        return 1
    except KeyboardInterrupt:
        return 130


def say(error: BaseException) -> None:
    """Report an error on one line."""
    sys.stderr.write(f"error: {one_line(str(error)) or type(error).__name__}\n")


def one_line(text: str) -> str:
    """The text on one line: each run of white space becomes one space."""
    return " ".join(text.split())


def name_of(module: str, script: str = "") -> str:
    """What a user types to run a command, as its help and its hints say it.

    The name of the script if this process was started by it, and `python -m` otherwise, which works
    wherever the script is not on the path.
    """
    ran = Path(sys.argv[0]).stem if sys.argv[:1] else ""
    return script if script and ran == script else f"python -m {module}"


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors take a line, suggest a name, and say where to look."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands: dict[str, Any] = {}

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\nTry '{self.prog} --help'.\n")

    def refuse(self, message: str) -> NoReturn:
        """Exit with status 2, for an input at fault, of which the help says nothing."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    def add_subparsers(self, **kwargs: Any) -> Any:  # argparse gives the type no public name
        """As in argparse, with parsers of this class."""
        commands = super().add_subparsers(**kwargs)
        self._commands = commands.choices
        return commands

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, but unknown arguments are an error here, in the command's own parser."""
        given = sys.argv[1:] if args is None else list(args)
        self._check_options(given)
        options, rest = super().parse_known_args(given, namespace)
        if rest:
            self.error(f"Unexpected argument {rest[0]!r}")
        return options, rest

    def _check_options(self, given: Sequence[str]) -> None:
        """Report an option that does not exist before argparse complains about missing ones."""
        for text in given:
            if text == "--" or (self._commands and not text.startswith("-")):
                return  # only arguments, or another command's options, follow
            name = text.partition("=")[0]
            if not name.startswith("--") or " " in name or self._get_option_tuples(name):
                continue  # a short option, a value such as -1, or an abbreviation
            known = [option for option in self._option_string_actions if option[:2] == "--"]
            self.error(f"Unknown option {name!r}{did_you_mean(name, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            if isinstance(action, argparse._SubParsersAction):
                self.error(no_such("command", value, choices))
            raise argparse.ArgumentError(action, no_such("choice", value, choices))
