"""Carries out a Dockerfile without Docker: each RUN in a Debian root instead of its base image."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.deploy.docker_files import ROOT, instructions
from tests.support.debian_root import (
    DebianRoot,
    lend_packages,
    package_environment,
)

NOTED = ("ARG", "EXPOSE", "HEALTHCHECK", "CMD")  # they change nothing in the file system


class Build:
    """The stages of a Dockerfile, each with a root of its own below a folder."""

    def __init__(self, dockerfile: str, ignore: str, base: Path, folder: Path) -> None:
        """base: a root instead of the base image. folder: an empty one."""
        self._found, self._base, self._folder = instructions(dockerfile), base, folder
        self._ignore = ignore.splitlines()
        self._stages: dict[str, DebianRoot] = {}
        self._args: dict[str, str] = {}
        self.ran: list[str] = []  # the RUN lines
        self.last: dict[str, str] = {}  # the instructions that say how the image is started

    def target(self, name: str) -> DebianRoot:
        """Carry out everything up to the end of a stage. Raises CalledProcessError."""
        for word, rest in self._found:
            if word == "FROM":
                if name in self._stages:
                    break
                base, _, stage = rest.partition(" AS ")
                self._stages[stage] = root = self._begin(base, stage)
                self._args = {}
            else:
                self._do(root, word, rest)
        return self._stages[name]

    def _begin(self, base: str, stage: str) -> DebianRoot:
        before = self._stages.get(base)
        source = before.folder if before else self._base
        root = DebianRoot(self._folder / stage)
        if before:
            root.env, root.workdir, root.user = dict(before.env), before.workdir, before.user
        _copy(source, root.folder)
        return root

    def _do(self, root: DebianRoot, word: str, rest: str) -> None:
        if word == "ENV":
            pairs = dict(part.split("=", 1) for part in shlex.split(rest))
            root.env |= {name: _filled(value, root.env) for name, value in pairs.items()}
        elif word == "ARG":
            name, _, default = rest.partition("=")
            self._args[name] = default
        elif word == "WORKDIR":
            root.workdir = rest
            (root.folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            root.user = rest
        elif word == "COPY":
            self._copy(root, rest.split())
        elif word == "RUN":
            self._run(root, rest)
        else:
            assert word in NOTED, f"what does {word} do?"
            self.last[word] = rest

    def _run(self, root: DebianRoot, line: str) -> None:
        shared = lend_packages(root)
        environment = package_environment() | self._args
        done = root.run(["sh", "-c", line], environment, shared)
        if done.returncode:
            raise subprocess.CalledProcessError(
                done.returncode, line, done.stdout[-4000:], done.stderr[-4000:]
            )
        self.ran.append(line)

    def _copy(self, root: DebianRoot, words: Sequence[str]) -> None:
        *sources, target = words
        there = root.folder / Path(root.workdir, target).relative_to("/")
        if sources[0].startswith("--from="):
            stage = self._stages[sources[0].removeprefix("--from=")]
            for source in sources[1:]:
                _copy(stage.folder / source.lstrip("/"), there)
            return
        for path in context(ROOT, self._ignore):
            for source in sources:
                if path == Path(source) or source == "." or Path(source) in path.parents:
                    within = path if source == "." else path.relative_to(source)
                    copied = there / (path.name if path == Path(source) else within)
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / path, copied)


def context(folder: Path, ignore: Sequence[str]) -> Iterator[Path]:
    """The files that Docker sends to the builder, relative to the folder.

    ignore: the lines of its `.dockerignore`, which must leave out everything but what it names.
    """
    for line in ignore:
        if line.startswith("!"):
            kept = folder / line[1:].rstrip("/")
            for path in [kept] if kept.is_file() else sorted(kept.rglob("*")):
                if path.is_file() and not is_ignored(path.relative_to(folder), ignore):
                    yield path.relative_to(folder)


def is_ignored(path: Path, ignore: Sequence[str]) -> bool:
    """Whether a `.dockerignore` leaves a file out: the last line that fits it or its folders."""
    names = [str(each) for each in (path, *path.parents)][:-1]
    left_out = False
    for line in ignore:
        pattern = line.removeprefix("!").rstrip("/")
        if not pattern or pattern.startswith("#"):
            continue
        deep = pattern.startswith("**/")
        fits = re.compile(("(.*/)?" if deep else "") + _regex(pattern.removeprefix("**/")))
        if any(fits.fullmatch(name) for name in names):
            left_out = not line.startswith("!")
    return left_out


def _regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def _filled(value: str, env: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda found: env.get(found[1], ""), value)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder's content, with owners, links and times."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", f"{source}/.", target], check=True)
