"""The lines to change for a known mistake, in the languages that ports are written in."""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import NamedTuple

from svd_engine.conformance.python_lines import PYTHON
from svd_engine.conformance.rust_lines import RUST

LANGUAGES = {"Python": PYTHON, "Rust": RUST}
WORDS = re.compile(r"\w+|\s+|.")
ALIKE = 0.6  # lines that are less alike have no parts worth marking


class Part(NamedTuple):
    """A piece of some lines, and whether the other lines lack it."""

    text: str
    changed: bool


class Lines(NamedTuple):
    """What a port with a mistake has, and what belongs there."""

    language: str
    wrong: str
    right: str

    def parts(self, of_right: bool) -> Iterator[Part]:
        """The wrong lines or the right ones, cut into the parts that the other has or lacks."""
        ours, other = (self.right, self.wrong) if of_right else (self.wrong, self.right)
        words = WORDS.findall(ours)
        matcher = SequenceMatcher(None, words, WORDS.findall(other), autojunk=False)
        alike = matcher.ratio() >= ALIKE
        for how, start, stop, _, _ in matcher.get_opcodes():
            if start < stop:
                yield Part("".join(words[start:stop]), alike and how != "equal")


def lines_of(mistake: str) -> Iterator[Lines]:
    """A mistake's lines in each language."""
    for language, lines in LANGUAGES.items():
        yield Lines(language, *lines[mistake])
