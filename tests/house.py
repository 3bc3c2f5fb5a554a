"""`python -m tests.house`: measure the structure of the code.

Prints the numbers of files and of import layers, the longest file and function, and the ratio of
tests to sources. Also traces a `submit` through a whole coordinator in this process: the files that
it enters, and how often it returns to one.
"""

import ast
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

from tests.support.farm_jobs import picture_bytes, submission
from tests.support.inline_farm import coordinator, replace_video

ROOT = Path(__file__).parent.parent
PACKAGES = ("farm", "svd_engine")


class Trip(NamedTuple):
    """The files that a call entered, in order, with an entry for each change of file."""

    files: list[str]

    @property
    def returns(self) -> int:
        """How often the call returned to a file that it had left."""
        return len(self.files) - len(set(self.files))


def sources(package: str) -> dict[str, ast.Module]:
    """The parsed files of a package, by the full names of their modules."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


def imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The modules among `known` that a file imports anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names} & known
            yield from named or ({node.module} & known)


def floors(trees: dict[str, ast.Module], depth: int | None = None) -> int:
    """The longest chain of modules that import each other downward; a circle counts once.

    depth: how many parts of a module's name count, so that 2 gives the floors of packages.
    """
    arrows: dict[str, set[str]] = {}
    for name, tree in trees.items():
        room = _room(name, depth)
        arrows.setdefault(room, set()).update(_room(n, depth) for n in imports(tree, set(trees)))
        arrows[room].discard(room)
    under_way: set[str] = set()

    @cache
    def floor(name: str) -> int:
        under_way.add(name)
        height = 1 + max((floor(n) for n in arrows[name] if n not in under_way), default=0)
        under_way.discard(name)
        return height

    return max(map(floor, arrows))


def _room(module: str, depth: int | None) -> str:
    return ".".join(module.split(".")[:depth])


def lines_in(path: Path) -> int:
    return len(path.read_text().splitlines())


def longest_function(trees: dict[str, ast.Module]) -> tuple[int, str]:
    """The longest function's number of lines and name."""
    return max(
        ((node.end_lineno or 0) - node.lineno + 1, f"{module}.{node.name}")
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


async def trip_of_a_submit(folder: Path) -> Trip:
    """Trace the coordinator's `submit` of a job to an idle farm until it returns."""
    trip, seen = Trip([]), list[FrameType]()
    ours = ContextVar("ours", default=False)  # tasks that a task starts inherit it

    def watch(frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not ours.get() or not path.startswith(str(ROOT / "farm")):
            return
        if frame not in seen:  # a coroutine that goes on was seen when it began
            seen.append(frame)
            name = str(Path(path).relative_to(ROOT))
            if trip.files[-1:] != [name]:
                trip.files.append(name)

    async with coordinator(folder, working=False) as farm:
        asked = submission(Path("nano"), width=32, height=16, num_frames=2)
        ours.set(True)
        sys.setprofile(watch)
        try:
            await farm.submit(asked, picture_bytes())
        finally:
            sys.setprofile(None)
    return trip


def main() -> None:
    for package in PACKAGES:
        trees = sources(package)
        length, path = max((lines_in(path), path) for path in (ROOT / package).rglob("*.py"))
        size, name = longest_function(trees)
        print(
            f"{package}: {len(trees)} files; floors of imports: "
            f"{floors(trees, 2)} of packages, {floors(trees)} of files"
        )
        print(f"  longest file: {path.relative_to(ROOT)}, {length} lines")
        print(f"  longest function: {name}, {size} lines")
    code = sum(lines_in(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    tests = sum(map(lines_in, (ROOT / "tests").rglob("*.py")))
    print(f"lines of tests over lines of sources: {tests / code:.2f}")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        replace_video(patch)
        trip = asyncio.run(trip_of_a_submit(Path(folder)))
    print(
        f"a submit enters {len(set(trip.files))} files, moves {len(trip.files)} times between "
        f"them, and returns {trip.returns} times to one that it had left"
    )
    print("  " + " > ".join(file.removeprefix("farm/") for file in trip.files))


if __name__ == "__main__":
    main()
