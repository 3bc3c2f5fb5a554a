"""What a batch is given: which pictures, what their clips are called, what each asks for itself."""

import glob
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from farm.errors import RequestError
from farm.manifest import MANIFESTS, MAX_NAME, parse_manifest, refuse
from farm.request import digest_of
from farm.source import Places, Source

# What a folder is searched for; a file that is named is tried whatever it is called.
SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
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


def find_pictures(inputs: Iterable[str]) -> list[Picture]:
    """The pictures of files, folders, globs, `s3://` and manifests, each once, by unique names.

    A picture that cannot be read says so in its `error`. Raises RequestError for an input that
    finds nothing and for rows that are wrong, StoreError where S3 cannot be asked.
    """
    places = Places()
    found: dict[object, _Found] = {}
    for text in inputs:
        for each in _find(text, places):
            found.setdefault((each.origin, each.name, each.asks), each)
    return _name(list(found.values()))


def read(picture: Picture) -> bytes:
    """The picture's bytes, which must be those that were named; RequestError says why not."""
    if picture.error:
        raise RequestError(picture.error)
    data = picture.origin.fetch()
    if data is None or digest_of(data) != picture.digest:
        change = "changed" if data else "taken away"
        raise RequestError(f"{picture.source} was {change} while the batch ran; run it again")
    return data


def _find(text: str, places: Places) -> Iterator[_Found]:
    origin = places.locate(text)
    sources = _objects(origin) if origin.store else _files(origin.path)
    if not sources:
        raise RequestError(f"no pictures at {text!r}")
    for source in sources:
        if source.path.lower().endswith(MANIFESTS):
            yield from _rows(source, places)
        else:
            yield _Found(source)


def _files(pattern: str) -> list[Source]:
    """The file of that name, or a folder's pictures, or what matches a glob."""
    path = Path(pattern)
    if path.is_dir():
        matches = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
    elif path.exists():
        matches = [path]
    else:
        # Path.glob takes no absolute patterns.
        matches = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    return [Source(str(match)) for match in matches if match.is_file()]


def _objects(origin: Source) -> list[Source]:
    """The object of that key, or the pictures just below it, as if it were a folder."""
    store, key = origin.store, origin.path
    assert store is not None
    if key and not key.endswith("/") and store.exists(key):
        return [origin]
    folder = key.rstrip("/") + "/" if key else ""
    return [
        Source(each, store)
        for each in store.list(folder)
        if "/" not in each[len(folder) :] and PurePosixPath(each).suffix.lower() in SUFFIXES
    ]


def _rows(manifest: Source, places: Places) -> Iterator[_Found]:
    data = manifest.fetch()
    if data is None:
        raise RequestError(f"there is no manifest at {manifest}")
    found: list[_Found] = []
    faults: list[str] = []
    for entry in parse_manifest(data, str(manifest)):
        row = f"{manifest} line {entry.line}"
        try:
            origin = places.locate(entry.picture, manifest)
        except RequestError as error:
            faults.append(f"{row}: picture: {error}")
        else:
            found.append(_Found(origin, row, entry.name, entry.params))
    refuse(faults)
    yield from found


def _name(found: Sequence[_Found]) -> list[Picture]:
    """Name each by its row or its stem; where these agree, by its content too; the same once."""
    with ThreadPoolExecutor(READERS) as pool:
        looks = list(pool.map(_look, found))
    pairs = list(zip(found, looks, strict=True))
    refuse([_missing(each) for each, (digest, _) in pairs if digest is None and each.row])
    stems = [each.name or _stem(each.origin) for each in found]
    counts = Counter(stems)
    pictures: dict[str, Picture] = {}
    identities: dict[str, tuple[str, str]] = {}
    for (each, (digest, error)), stem in zip(pairs, stems, strict=True):
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
        picture = Picture(source, name, each.origin, each.params, digest or "", error)
        pictures.setdefault(name, picture)
    return list(pictures.values())


def _look(found: _Found) -> tuple[str | None, str]:
    """A picture's digest, or why it has none; None for one that is not there."""
    try:
        data = found.origin.fetch()
    except RequestError as error:
        return "", str(error)
    if data is None:
        return None, f"cannot read {found.origin}: there is no such picture"
    return digest_of(data), ""


def _missing(found: _Found) -> str:
    hint = "; a manifest takes no globs" if glob.has_magic(found.origin.path) else ""
    return f"{found.row}: picture: there is none at {found.origin}{hint}"


def _stem(origin: Source) -> str:
    """A source's stem, fit for a file's name."""
    stem = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" else c for c in origin.stem
    )
    short = stem.lstrip(".").encode()[:MAX_NAME].decode(errors="ignore")
    return short or "picture"
