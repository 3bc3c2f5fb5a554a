"""What a batch is given: which pictures, what their clips are called, what each asks for itself."""

import glob
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from farm.batch.listing import Listing, list_source
from farm.batch.manifest import MANIFESTS, MAX_NAME, parse_manifest, refuse
from farm.batch.source import Places, Source
from farm.errors import RequestError
from farm.model.request import digest_of

READERS = 8  # pictures read at once: S3 answers late, and each is in memory until its digest is


@dataclass(frozen=True)
class Picture:
    """A picture and what its clips are called; its digest, or why it cannot be read.

    source: its path or URL, as text. params: what its row of a manifest gives, checked.
    """

    source: str
    name: str
    origin: Source = field(repr=False)
    params: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    error: str = ""


@dataclass(frozen=True)
class _Found:
    """A picture before it is read, with what its row of a manifest says of it."""

    origin: Source
    row: str = ""  # such as `rows.csv line 3`
    name: str = ""
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def asks(self) -> str:
        """Its own parameters, as text."""
        return json.dumps(self.params, sort_keys=True) if self.params else ""


@dataclass(frozen=True)
class Inputs:
    """The pictures that were given, and for each folder and glob what of it was left out."""

    pictures: list[Picture]
    listings: dict[str, Listing]  # by what was given


def find_pictures(inputs: Iterable[str]) -> Inputs:
    """The pictures of files, folders, globs, `s3://` and manifests, each once, by unique names.

    A picture that is not there or cannot be read says so in its `error`. Raises RequestError, which
    tells of every input that finds nothing and of every row that is wrong; StoreError where S3
    cannot be asked.
    """
    places = Places()
    found: dict[object, _Found] = {}
    listings: dict[str, Listing] = {}
    faults: list[str] = []
    for text in inputs:
        try:
            listings[text] = list_source(places.locate(text))
            for each in _find(text, listings[text], places):
                found.setdefault((each.origin, each.name, each.asks), each)
        except RequestError as error:
            faults.append(str(error))
    refuse(faults)
    return Inputs(_name(list(found.values())), listings)


def read(picture: Picture) -> bytes:
    """The picture's bytes, which must be those that were named; RequestError says why not."""
    if picture.error:
        raise RequestError(picture.error)
    data = picture.origin.fetch()
    if data is None or digest_of(data) != picture.digest:
        change = "changed" if data else "taken away"
        raise RequestError(f"{picture.source} was {change} while the batch ran; run it again")
    return data


def _find(text: str, listing: Listing, places: Places) -> Iterator[_Found]:
    if not listing.sources:
        left_out = listing.say_left_out()
        raise RequestError(f"no pictures at {text!r}" + (f": {left_out}" if left_out else ""))
    for source in listing.sources:
        if source.path.lower().endswith(MANIFESTS):
            yield from _rows(source, places)
        else:
            yield _Found(source)


def _rows(manifest: Source, places: Places) -> Iterator[_Found]:
    data = manifest.fetch()
    if data is None:
        raise RequestError(f"there is no manifest at {manifest}")

    def locate(picture: str) -> Source:
        return places.locate(picture, manifest)

    for entry in parse_manifest(data, str(manifest), locate):
        row = f"{manifest} line {entry.line}"
        yield _Found(locate(entry.picture).as_stored(), row, entry.name, entry.params)


def _name(found: Sequence[_Found]) -> list[Picture]:
    """Name each by its row or its stem; where these agree, by its content too; the same once."""
    with ThreadPoolExecutor(READERS) as pool:
        looks = list(pool.map(_look, found))
    stems = [each.name or _stem(each.origin) for each in found]
    counts = Counter(stems)
    pictures: dict[str, Picture] = {}
    identities: dict[str, tuple[str, str]] = {}
    for (each, (digest, error)), stem in zip(zip(found, looks, strict=True), stems, strict=True):
        source = str(each.origin)
        identity = (digest or digest_of(source.encode()), each.asks)
        name = stem
        if counts[stem] > 1 and not each.name:
            # Rows of one picture differ in what they ask for.
            mark = digest_of("".join(identity).encode()) if each.asks else identity[0]
            name += f"-{mark[:8]}"
        if identities.setdefault(name, identity) != identity:
            other = pictures[name].source
            raise RequestError(
                f"{source} and {other} would both be called {name!r}; "
                "name them in a manifest, or give them to two batches"
            )
        picture = Picture(source, name, each.origin, each.params, digest, error)
        pictures.setdefault(name, picture)
    return list(pictures.values())


def _look(found: _Found) -> tuple[str, str]:
    """A picture's digest, or why it has none."""
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


def _stem(origin: Source) -> str:
    """A source's stem, fit for a file's name."""
    stem = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" else c for c in origin.stem
    )
    stem = unicodedata.normalize("NFC", stem)  # one clip on a Mac, so one here
    short = stem.lstrip(".").encode()[:MAX_NAME].decode(errors="ignore")
    return short or "picture"
