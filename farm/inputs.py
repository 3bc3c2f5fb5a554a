"""What a batch is given: which files, which names, which seeds."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from farm.errors import RequestError
from farm.request import digest_of

# What a folder is searched for; a file that is named is tried whatever it is called.
SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
MAX_SEEDS = 100_000


@dataclass(frozen=True)
class Picture:
    """A picture file and what its clips are called; its digest, or why it cannot be read."""

    path: Path
    name: str
    digest: str = ""
    error: str = ""


def parse_seeds(text: str) -> list[int]:
    """Seeds of `3`, `0-3` or `0-3,7`, each once, in order; ValueError for anything else."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--seeds: {part!r} is neither a seed nor a range such as 0-3")
        start, end = int(first), int(last or first)
        if not start <= end < 2**64:
            raise ValueError(f"--seeds: {part!r} must rise, and stay below 2^64")
        if end - start + len(seeds) >= MAX_SEEDS:
            raise ValueError(f"--seeds: {part!r} makes more than {MAX_SEEDS} clips of each picture")
        seeds |= dict.fromkeys(range(start, end + 1))
    return list(seeds)


def find_pictures(patterns: Iterable[str]) -> list[Path]:
    """The files that are named, or match a glob, or are pictures in a folder; each once.

    Raises RequestError for a pattern that finds nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
        elif path.exists():
            matches = [path]
        else:
            # Path.glob takes no absolute patterns.
            matches = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise RequestError(f"no pictures at {pattern!r}")
        found |= dict.fromkeys(matches)
    return list(found)


def readable(path: str | Path) -> str:
    """A file's name as text, where it is not UTF-8 too."""
    return os.fsencode(path).decode("utf-8", "replace")


def name_pictures(paths: Sequence[Path]) -> list[Picture]:
    """Name each file by its stem; where stems agree, by its content too, and the same file once."""
    stems = Counter(path.stem for path in paths)
    pictures: dict[str, Picture] = {}
    for path in paths:
        digest = error = ""
        try:
            digest = digest_of(path.read_bytes())
        except OSError as failure:
            error = f"cannot read {path}: {failure.strerror}"
        name = readable(path.stem)
        if stems[path.stem] > 1:
            name += f"-{(digest or digest_of(str(path).encode()))[:8]}"
        pictures.setdefault(name, Picture(path, name, digest, error))
    return list(pictures.values())
