"""The completion of the command lines, by the real shells."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from farm import __main__ as operator
from farm.batch import __main__ as batch
from svd_engine.__main__ import main
from tests.support.programs import exit_status

Main = Callable[[Sequence[str]], int]
SCRIPTS: dict[str, Main] = {"svd-engine": main, "farm": operator.main, "farm-batch": batch.main}
# What is typed before the key Tab, and one of the words that are then offered.
TYPED = [
    ("farm sta", "status"),
    ("farm jobs --li", "--limit"),
    ("farm --completion z", "zsh"),
    ("farm doctor --bundle pic", "picture.png"),
    ("farm-batch pic", "picture.png"),
    ("farm-batch picture.png --out fol", "folder"),
    ("farm-batch picture.png --dr", "--dry-run"),
    ("farm-batch picture.png --fit c", "crop"),
    ("farm-batch picture.png --tier f", "fast"),
    ("farm-batch picture.png --dtype b", "bfloat16"),
    ("svd-engine ren", "render"),
    ("svd-engine render --fit p", "pad"),
    ("svd-engine render pic", "picture.png"),
    ("svd-engine render --device cu", "cuda"),
    ("svd-engine render --motion-b", "--motion-bucket-id"),
    ("svd-engine bench --preset cpu", "cpu-mid"),
]
WAIT_S = 30.0  # for a shell to answer


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """A folder with a picture, a folder, and both shells' scripts of every command."""
    monkeypatch.chdir(tmp_path)
    Path("picture.png").touch()
    Path("folder").mkdir()
    for name, program in SCRIPTS.items():
        for shell in ("bash", "zsh"):
            assert exit_status(program, ["--completion", shell]) == 0
            Path(f"{name}.{shell}").write_text(capsys.readouterr().out)
    return tmp_path


def test_bash_offers_commands_options_choices_and_files(folder: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    lines = ["set -u", *(f"source ./{name}.bash" for name in SCRIPTS)]
    for typed, _ in TYPED:
        words = typed.split()
        function = f"_shtab_{words[0].replace('-', '_')}"
        lines += [f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}", function]
        lines.append('echo "${COMPREPLY[*]}"')
    ran = subprocess.run([bash, "-c", "\n".join(lines)], capture_output=True, text=True)
    offered = ran.stdout.splitlines()
    assert len(offered) == len(TYPED), ran.stderr
    for (typed, word), words_offered in zip(TYPED, offered, strict=True):
        assert word in words_offered.split(), typed


def test_zsh_offers_commands_options_choices_and_files(folder: Path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    setup = "PS1='> '; unsetopt prompt_cr prompt_sp; autoload -U compinit; compinit -u -D; "
    setup += "; ".join(f'eval "$(<{name}.zsh)"' for name in SCRIPTS)
    terminal = Terminal([zsh, "-f", "-i"])
    try:
        terminal.type(f"{setup}; echo re''ady\n", until="ready")
        for typed, word in TYPED:
            terminal.type(f"{typed}\t", until=word[-3:])
            # The completed line is printed, not run: Ctrl-A puts `echo` before it.
            terminal.type("\x01echo do''ne \n", until="\n> ")
            completed = re.search(r"\ndone (.*)\r\n> ", terminal.seen)
            assert completed, terminal.seen
            assert word in completed[1].replace("/", "").split(), typed
    finally:
        terminal.close()


class Terminal:
    """A program in a terminal."""

    def __init__(self, command: list[str]) -> None:
        self._pid, self._file = pty.fork()
        if self._pid == 0:  # pragma: no cover - it becomes the program
            os.execve(command[0], command, {**os.environ, "TERM": "dumb"})
        self.seen = ""

    def type(self, keys: str, until: str) -> None:
        """Type keys, and read until a text was seen."""
        os.write(self._file, keys.encode())
        self.seen, give_up = "", time.monotonic() + WAIT_S
        while until not in self.seen:
            if not select.select([self._file], [], [], max(0, give_up - time.monotonic()))[0]:
                pytest.fail(f"no {until!r} in {self.seen!r}")
            self.seen += os.read(self._file, 65536).decode(errors="replace")

    def close(self) -> None:
        os.write(self._file, b"\x03\x04")
        os.close(self._file)
        os.waitpid(self._pid, 0)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("ran", ["script", "module"])
def test_a_command_is_called_in_its_help_as_it_was_run(
    name: str,
    ran: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = name.replace("svd-engine", "svd_engine").replace("-", ".")
    path, called = {
        "script": (f"/somewhere/bin/{name}", name),
        "module": (f"/somewhere/{module.replace('.', '/')}/__main__.py", f"python -m {module}"),
    }[ran]
    monkeypatch.setattr(sys, "argv", [path])
    assert exit_status(SCRIPTS[name], ["--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: {called} ")
    assert exit_status(SCRIPTS[name], ["--nonsense"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"{called}: error: Unknown option '--nonsense'"
    assert hint == f"Try '{called} --help'."


def test_examples_in_the_help_are_called_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/farm-batch"])
    assert exit_status(batch.main, ["--help"]) == 0
    assert "\n  farm-batch examples/pictures --out demo\n" in capsys.readouterr().out
