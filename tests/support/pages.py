"""The project's READMEs as tests read them: their prose, links, code blocks and commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("farm", "svd_engine", "tests", "deploy", "examples")
PROJECT_FILE = re.compile(rf"(({'|'.join(FOLDERS)}|\.ci)/[\w./*-]*|[\w/-]+\.(py|md))")
RUN = ("python", "pytest", "make", "ray", "serve", "pip", "svd-engine", "farm", "farm-batch")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: "Page"
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a shell: the variables set before it, and its words."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Page:
    """A README."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def blocks(self) -> list[Block]:
        found = re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", self.text, re.MULTILINE | re.DOTALL)
        return [Block(self, self._line(m.start()), m[2], _outdented(m[3], m[1])) for m in found]

    @cached_property
    def prose(self) -> str:
        """The text with blank lines in place of code blocks, fenced or indented."""
        fenced = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
        text = fenced.sub(lambda block: "\n" * block[0].count("\n"), self.text)
        return re.sub(r"(?<=\n\n)(    \S.*\n)+", lambda m: "\n" * m[0].count("\n"), text)

    @property
    def links(self) -> list[str]:
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)

    @property
    def anchors(self) -> set[str]:
        """The anchors that GitHub makes of the headings."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

    @property
    def files(self) -> Iterator[tuple[str, list[Path]]]:
        """Each file of the project that is named in backticks, and where it may be.

        A bare name, as in "`farm/a.py`, `b.py`", is beside the last path of its line.
        """
        for line in self.prose.splitlines():
            beside = self.path.parent
            for name in re.findall(r"`([^`\s]+)`", line):
                if not PROJECT_FILE.fullmatch(name) or "*" in name:
                    continue
                places = [ROOT / name, self.path.parent / name, beside / name]
                yield name, places
                beside = next((p for p in places if p.exists()), ROOT).parent

    @property
    def commands(self) -> Iterator[Command]:
        """Those of the shell's blocks, and those in backticks."""
        for block in self.blocks:
            if block.language == "sh":
                for words in _commands_of(block.code):
                    yield Command(str(block), words)
        for found in re.finditer(r"`([^`]+)`", self.prose):
            text = " ".join(found[1].split())
            if " " in text and text.split()[0].rpartition("/")[2] in RUN:
                for words in _commands_of(text):
                    yield Command(f"{self}:{self._line_of_prose(found.start())}", words)

    def _line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1

    def _line_of_prose(self, offset: int) -> int:
        return self.prose.count("\n", 0, offset) + 1


def pages() -> list[Page]:
    """All of them."""
    below = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("README.md")))
    return [Page(path) for path in (ROOT / "README.md", *below)]


def _outdented(code: str, indent: str) -> str:
    return re.sub(f"^{indent}", "", code, flags=re.MULTILINE)


def _commands_of(code: str) -> Iterator[tuple[str, ...]]:
    """The commands of a script, without assignments, redirections and the words of loops."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|<>&")
        lexer.whitespace_split = True
        words: list[str] = []
        redirected = False
        for word in [*lexer, ";"]:
            if redirected:
                redirected = False
            elif word and not set(word) - set("<>"):
                redirected = True
            elif word and not set(word) - set(";|&"):
                command, words = _without_assignments(words), []
                if command and command[0] not in ("for", "done", "break"):
                    yield command
            else:
                words.append(word)


def _without_assignments(words: list[str]) -> tuple[str, ...]:
    first = 0
    while first < len(words) and (words[first] == "do" or re.match(r"[A-Z_]+=", words[first])):
        first += 1
    return tuple(words[first:])
