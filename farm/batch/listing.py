"""Listing of a folder, an S3 prefix or a glob: the pictures in it, and what is left out and why."""

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from farm.batch.manifest import FOUND
from farm.batch.source import Source
from farm.errors import RequestError
from farm.quantities import counted
from farm.store import Store
from svd_engine.picture_files import suffixes

HIDDEN, MANIFEST, OTHER, FOLDER = "hidden", "a manifest", "not a picture", "a folder"
# Names that systems create for themselves: thumbnails of a Synology, parts of zips and of drives.
_MACHINES_OWN = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Search:
    """How folders and S3 prefixes are searched."""

    recursive: bool = False  # whether to enter the folders below
    outputs: frozenset[str] = frozenset()  # the places that get the outputs: they are not entered


FLAT = Search()


@dataclass(frozen=True)
class Listing:
    """The sources to use, and those that are left out, with the reason."""

    sources: list[Source] = field(default_factory=list)
    left_out: list[tuple[Source, str]] = field(default_factory=list)
    searched: str | None = None  # the folder that was searched with its subfolders, if one was

    def folder_of(self, source: Source) -> str:
        """The folder of a source below the one that was searched; empty if it is in this one."""
        if self.searched is None:
            return ""
        folder = PurePosixPath(source.path).parent.relative_to(self.searched)
        return "" if folder == PurePosixPath() else str(folder)

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


def list_source(origin: Source, search: Search = FLAT) -> Listing:
    """List a source: itself if it is a file or an object, whatever its suffix; else its content."""
    origin = origin.as_stored()
    if origin.store:
        return _list_objects(origin, search)
    path = Path(origin.path)
    if path.is_dir() and search.recursive:
        return _list_tree(path, search)
    if path.is_dir():
        return _partition(Source(str(each)) for each in sorted(path.iterdir()))
    if path.exists():
        return Listing([Source(str(path))] if path.is_file() else [])
    return _list_glob(origin.path)


def _list_tree(root: Path, search: Search) -> Listing:
    """A folder and the folders below it, except those that are hidden or get the outputs."""
    listing = Listing(searched=str(root))
    for folder, below, files in os.walk(root):  # it follows no links, which may lead in circles
        here = Path(folder)
        if Source(folder).place in search.outputs:
            below.clear()
            if here == root:
                raise RequestError(f"{root} gets the outputs: give another folder as --out")
            continue
        hidden = [name for name in below if _is_hidden(name)]
        linked = [name for name in below if (here / name).is_symlink()]
        listing.left_out.extend((Source(str(here / name)), FOLDER) for name in linked + hidden)
        below[:] = sorted(set(below) - {*hidden, *linked})
        _partition((Source(str(here / name)) for name in sorted(files)), into=listing)
    return listing


def _objects_below(folder: str, store: Store, search: Search) -> Iterator[Source]:
    for key in store.list(folder):
        source = Source(key, store)
        if not any(source.place.startswith(f"{output}/") for output in search.outputs):
            yield source


def _list_objects(origin: Source, search: Search) -> Listing:
    """The object with this key, or those below it: directly as in a folder, or all of them."""
    store, key = origin.store, origin.path
    assert store is not None
    if key and not key.endswith("/") and store.exists(key):
        return Listing([origin])
    folder = key.rstrip("/") + "/" if key else ""
    if search.recursive:
        below_it = _objects_below(folder, store, search)
        asked = frozenset(PurePosixPath(folder).parts)
        return _partition(below_it, asked, into=Listing(searched=folder), in_folders=True)
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
    in_folders: bool = False,
    into: Listing | None = None,
) -> Listing:
    """Separate pictures from what is left out.

    asked: the parts of a glob, which count as visible because the user gave them. any_suffix:
    accept all files that are not hidden. in_folders: whether sources may be in hidden folders, too.
    into: what to add them to.
    """
    listing = Listing() if into is None else into
    for source in sources:
        # In a folder only the name counts. In a glob, hidden folders on the way count too.
        path = PurePosixPath(source.path)
        parts = path.parts if asked or in_folders else (path.name,)
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
