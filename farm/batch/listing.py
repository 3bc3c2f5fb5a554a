"""Listing of a folder, an S3 prefix or a glob: the pictures in it, and what is left out and why."""

import glob
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from farm.batch.manifest import FOUND
from farm.batch.source import Source
from farm.quantities import counted
from svd_engine.picture_files import suffixes

HIDDEN, MANIFEST, OTHER, FOLDER = "hidden", "a manifest", "not a picture", "a folder"
# Names that systems create for themselves: thumbnails of a Synology, parts of zips and of drives.
_MACHINES_OWN = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Listing:
    """The sources to use, and those that are left out, with the reason."""

    sources: list[Source] = field(default_factory=list)
    left_out: list[tuple[Source, str]] = field(default_factory=list)

    def say_left_out(self) -> str:
        """A summary like `3 files left out: 2 hidden, 1 not a picture`; empty if there are none."""
        whys = Counter(why for _, why in self.left_out)
        folders = whys.pop(FOLDER, 0)
        parts = []
        if whys:
            each = ", ".join(f"{number} {why}" for why, number in whys.items())
            parts.append(f"{counted(whys.total(), 'file')} left out: {each}")
        if folders:
            parts.append(f"{counted(folders, 'folder')} not searched")
        return "; ".join(parts)


def list_source(origin: Source) -> Listing:
    """List a source: itself if it is a file or an object, whatever its suffix; else its content."""
    origin = origin.as_stored()
    if origin.store:
        return _list_objects(origin)
    path = Path(origin.path)
    if path.is_dir():
        return _partition(Source(str(each)) for each in sorted(path.iterdir()))
    if path.exists():
        return Listing([Source(str(path))] if path.is_file() else [])
    return _list_glob(origin.path)


def _list_objects(origin: Source) -> Listing:
    """The object with this key, or the objects directly below it, as in a folder."""
    store, key = origin.store, origin.path
    assert store is not None
    if key and not key.endswith("/") and store.exists(key):
        return Listing([origin])
    folder = key.rstrip("/") + "/" if key else ""
    names = (each[len(folder) :].partition("/") for each in store.list(folder))
    below = dict.fromkeys(f"{folder}{name}{slash}" for name, slash, _ in names if name)
    return _partition(Source(each, store) for each in below)


def _list_glob(pattern: str) -> Listing:
    spellings = {unicodedata.normalize(form, pattern) for form in ("NFC", "NFD")} | {pattern}
    matches = {
        match
        for each in spellings
        for match in glob.glob(each, recursive=True)  # noqa: PTH207 - Path.glob has no absolute ones
    }
    suffix = PurePosixPath(pattern).suffix
    asked_for = bool(suffix) and not glob.has_magic(suffix)
    found = [Source(str(Path(match))) for match in sorted(matches) if not Path(match).is_dir()]
    return _partition(found, frozenset(PurePosixPath(pattern).parts), asked_for)


def _partition(
    sources: Iterable[Source],
    asked: frozenset[str] = frozenset(),
    any_suffix: bool = False,
) -> Listing:
    """Separate pictures from what is left out.

    asked: the parts of a glob, which count as visible because the user gave them. any_suffix:
    accept all files that are not hidden.
    """
    listing = Listing()
    for source in sources:
        # In a folder only the name counts. In a glob, hidden folders on the way count too.
        parts = PurePosixPath(source.path).parts if asked else (PurePosixPath(source.path).name,)
        suffix = PurePosixPath(source.path).suffix.lower()
        if any(_is_hidden(part) for part in parts if part not in asked):
            listing.left_out.append((source, HIDDEN))
        elif source.path.endswith("/") or (not source.store and Path(source.path).is_dir()):
            listing.left_out.append((source, FOLDER))
        elif any_suffix or suffix in suffixes():
            listing.sources.append(source)
        else:
            listing.left_out.append((source, MANIFEST if suffix in FOUND else OTHER))
    return listing


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _MACHINES_OWN
