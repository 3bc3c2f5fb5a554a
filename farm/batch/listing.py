"""What a folder, a prefix of S3 or a glob holds: its pictures, and what is left out, and why."""

import glob
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from farm.batch.manifest import FOUND
from farm.batch.source import Source
from farm.quantities import counted
from svd_engine.picture import suffixes

HIDDEN, MANIFEST, OTHER, FOLDER = "hidden", "a manifest", "not a picture", "a folder"
# That machines make for themselves: thumbnails of a Synology, and what zips and drives bring along.
_MACHINES_OWN = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Listing:
    """Sources that are to be used, and those that are not: by what they are."""

    sources: list[Source] = field(default_factory=list)
    left_out: list[tuple[Source, str]] = field(default_factory=list)

    def say_left_out(self) -> str:
        """Such as `3 files left out: 2 hidden, 1 not a picture`; empty where nothing is."""
        whys = Counter(why for _, why in self.left_out)
        folders = whys.pop(FOLDER, 0)
        parts = []
        if whys:
            each = ", ".join(f"{number} {why}" for why, number in whys.items())
            parts.append(f"{counted(whys.total(), 'file')} left out: {each}")
        if folders:
            parts.append(f"{counted(folders, 'folder')} not looked into")
        return "; ".join(parts)


def list_source(origin: Source) -> Listing:
    """The file or object that is named, whatever it is called; or what is below it."""
    origin = origin.as_stored()
    if origin.store:
        return _list_objects(origin)
    path = Path(origin.path)
    if path.is_dir():
        return _sort(Source(str(each)) for each in sorted(path.iterdir()))
    if path.exists():
        return Listing([Source(str(path))] if path.is_file() else [])
    return _list_glob(origin.path)


def _list_objects(origin: Source) -> Listing:
    """The object of that key, or those just below it, as if it were a folder."""
    store, key = origin.store, origin.path
    assert store is not None
    if key and not key.endswith("/") and store.exists(key):
        return Listing([origin])
    folder = key.rstrip("/") + "/" if key else ""
    names = (each[len(folder) :].partition("/") for each in store.list(folder))
    below = dict.fromkeys(f"{folder}{name}{slash}" for name, slash, _ in names if name)
    return _sort(Source(each, store) for each in below)


def _list_glob(pattern: str) -> Listing:
    spellings = {unicodedata.normalize(form, pattern) for form in ("NFC", "NFD")} | {pattern}
    matches = {
        match
        for each in spellings
        for match in glob.glob(each, recursive=True)  # noqa: PTH207 - Path's takes no absolute ones
    }
    suffix = PurePosixPath(pattern).suffix
    asked_for = bool(suffix) and not glob.has_magic(suffix)
    found = [Source(str(Path(match))) for match in sorted(matches) if not Path(match).is_dir()]
    return _sort(found, frozenset(PurePosixPath(pattern).parts), asked_for)


def _sort(
    sources: Iterable[Source],
    asked: frozenset[str] = frozenset(),
    any_suffix: bool = False,
) -> Listing:
    """asked: parts of names that were given, and so are not hidden; any_suffix: take all others."""
    listing = Listing()
    for source in sources:
        # What a folder is in does not hide it; of a glob's matches, what was not asked for does.
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
