"""The inputs of a batch: its pictures, the names of their clips, and parameters of their own."""

import glob
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from farm.batch.listing import FLAT, Listing, Search, list_source
from farm.batch.manifest import MANIFESTS, MAX_NAME, parse_manifest, refuse
from farm.batch.source import Source, SourceLocator, as_text
from farm.errors import RequestError
from farm.model.request import digest_of

WRITTEN = (".mp4", ".jpg", ".json", ".html")  # the suffixes of what a batch writes
READERS = 8  # pictures read at once: several, because S3 is slow; few, because they take memory


@dataclass(frozen=True)
class Picture:
    """A picture, the name of its clips, and its digest or the reason why it cannot be read.

    source: its path or URL, for messages. params: the validated parameters in its manifest row.
    """

    source: str
    name: str
    origin: Source = field(repr=False)
    params: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    error: str = ""


@dataclass(frozen=True)
class _Found:
    """A picture that has not been read yet, with the content of its manifest row."""

    origin: Source
    row: str = ""  # such as `rows.csv line 3`
    name: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    folder: str = ""  # that its name begins with, such as `boats/`

    @property
    def asks(self) -> str:
        """Its own parameters as JSON; empty if it has none."""
        return json.dumps(self.params, sort_keys=True) if self.params else ""


@dataclass(frozen=True)
class Inputs:
    """The pictures of a batch, and what was left out of the folders and globs that were given."""

    pictures: list[Picture]
    listings: dict[str, Listing]  # by the input as it was given


def find_pictures(
    inputs: Iterable[str],
    search: Search = FLAT,
    listed: Callable[[Listing], Listing] | None = None,
    digests: "Digests | None" = None,
) -> Inputs:
    """Find the pictures of files, folders, globs, `s3://` URLs and manifests, and name them.

    listed: changes what was listed, and permits that nothing is left. digests: those that are known
    from an earlier search.

    Each picture is listed once, under a unique name. One that is missing or unreadable says so in
    its `error`. Raises RequestError, which lists all inputs that match nothing and all wrong rows,
    and StoreError if S3 cannot be reached.
    """
    locator = SourceLocator()
    found: dict[object, _Found] = {}
    listings: dict[str, Listing] = {}
    faults: list[str] = []
    for text in inputs:
        try:
            listing = list_source(locator.locate(text), search)
            listings[text] = listed(listing) if listed else listing
            for each in _find(text, listings[text], locator, empty=listed is not None):
                found.setdefault((each.origin, each.name, each.asks), each)
        except RequestError as error:
            faults.append(str(error))
    refuse(faults)
    return Inputs(_name(list(found.values()), digests or Digests()), listings)


def read(picture: Picture) -> bytes:
    """Read a picture again. Raises RequestError if it is unreadable or has changed since."""
    if picture.error:
        raise RequestError(picture.error)
    data = picture.origin.fetch()
    if data is None or digest_of(data) != picture.digest:
        change = "changed" if data else "deleted"
        raise RequestError(f"{picture.source} was {change} while the batch ran; run it again")
    return data


def _find(text: str, listing: Listing, locator: SourceLocator, empty: bool) -> Iterator[_Found]:
    if not listing.sources and not empty:
        left_out = listing.say_left_out()
        raise RequestError(f"no pictures at {text!r}" + (f": {left_out}" if left_out else ""))
    for source in listing.sources:
        if source.path.lower().endswith(MANIFESTS):
            yield from _rows(source, locator)
        else:
            yield _Found(source, folder=_folder_name(listing.folder_of(source)))


def _rows(manifest: Source, locator: SourceLocator) -> Iterator[_Found]:
    data = manifest.fetch()
    if data is None:
        raise RequestError(f"there is no manifest at {manifest}")

    def locate(picture: str) -> Source:
        return locator.locate(picture, manifest)

    for entry in parse_manifest(data, str(manifest), locate):
        row = f"{manifest} line {entry.line}"
        yield _Found(locate(entry.picture).as_stored(), row, entry.name, entry.params)


def _name(found: Sequence[_Found], digests: "Digests") -> list[Picture]:
    """Name each picture by its row, or its folder and its file's stem, and drop duplicates.

    Where several stems are equal, a part of the content's digest is added.
    """
    with ThreadPoolExecutor(READERS) as pool:
        looks = list(pool.map(digests.look, found))
    stems = [each.name or f"{each.folder}{_stem(each.origin.stem)}" for each in found]
    counts = Counter(stems)
    pictures: dict[str, Picture] = {}
    identities: dict[str, tuple[str, str]] = {}
    for (each, (digest, error)), stem in zip(zip(found, looks, strict=True), stems, strict=True):
        source = str(each.origin)
        identity = (digest or digest_of(source.encode()), each.asks)
        name = stem
        if counts[stem] > 1 and not each.name:
            # Several rows of one picture differ only in their parameters.
            mark = digest_of("".join(identity).encode()) if each.asks else identity[0]
            name += f"-{mark[:8]}"
        if identities.setdefault(name, identity) != identity:
            other = pictures[name].source
            raise RequestError(
                f"{source} and {other} would both be called {name!r}; "
                "name them in a manifest, or render them in two batches"
            )
        picture = Picture(source, name, each.origin, each.params, digest, error)
        pictures.setdefault(name, picture)
    return list(pictures.values())


class Digests:
    """The digests of pictures, read when they are first asked for."""

    def __init__(self) -> None:
        self._known: dict[Source, str] = {}

    def forget(self, source: Source) -> None:
        """Read it again when it is asked for."""
        self._known.pop(source, None)

    def look(self, found: _Found) -> tuple[str, str]:
        """A picture's digest and an empty text, or an empty digest and the reason."""
        if known := self._known.get(found.origin):
            return known, ""
        digest, error = _look(found)
        if digest:
            self._known[found.origin] = digest
        return digest, error


def _look(found: _Found) -> tuple[str, str]:
    try:
        data = found.origin.fetch()
    except RequestError as error:
        return "", str(error)
    if data is None:
        return "", _missing(found)
    return digest_of(data), ""


def _missing(found: _Found) -> str:
    if not found.row:
        return f"cannot read {found.origin}: there is no such picture"
    hint = "; a manifest takes no globs" if glob.has_magic(found.origin.path) else ""
    return f"{found.row}: picture: there is none at {found.origin}{hint}"


def _folder_name(folder: str) -> str:
    """A folder as the beginning of a name: `boats/2024/`, or nothing."""
    parts = [_stem(as_text(part)) for part in PurePosixPath(folder).parts]
    # A folder must not have the name of a file that a batch writes.
    parts = [f"{part}_" if part.lower().endswith(WRITTEN) else part for part in parts]
    return "".join(f"{part}/" for part in parts)


def _stem(name: str) -> str:
    """A file's stem or a folder's name, changed as needed to be part of a file name."""
    stem = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" else c for c in name
    )
    stem = unicodedata.normalize("NFC", stem)  # macOS treats the other spelling as the same name
    short = stem.lstrip(".").encode()[:MAX_NAME].decode(errors="ignore")
    return short or "picture"
