"""The locations of a batch's inputs: files, and objects in S3."""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote_to_bytes

from farm.errors import RequestError, StoreError
from farm.store import Store, open_store, split_s3

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True)
class Source:
    """A file's path, or an object's key and its store."""

    path: str
    store: Store | None = None

    def __str__(self) -> str:
        """The path or URL, for messages; bytes that are not UTF-8 are replaced."""
        return self.store.where(self.path) if self.store else as_text(self.path)

    @property
    def stem(self) -> str:
        """The name without the suffix; bytes that are not UTF-8 are replaced."""
        return as_text(PurePosixPath(self.path).stem)

    @property
    def folder(self) -> str:
        """Its folder, in the form of `Store.where()`."""
        if self.store:
            return self.store.where(self.path).rpartition("/")[0]
        return str(Path(self.path).absolute().parent)

    @property
    def place(self) -> str:
        """Where it is, in a form that is the same for the same folder."""
        return str(self).rstrip("/") if self.store else str(Path(self.path).resolve())

    def beside(self, path: str) -> "Source":
        """Resolve a path that is written in this file. Raises RequestError outside the bucket."""
        if self.store is None or path.startswith("/"):
            return Source(str(Path(self.path).parent / path))
        key = normpath(str(PurePosixPath(self.path).parent / path))
        if key.startswith(".."):
            raise RequestError(f"{path!r} leads out of the bucket of {self}")
        return Source(key, self.store)

    def as_stored(self) -> "Source":
        """The source under the Unicode spelling that exists: macOS writes `é` as two characters.

        Unchanged if there is none in any spelling.
        """
        if self.path.isascii():
            return self
        if self.store:
            there = not self.path.endswith("/") and self.store.exists(self.path)
            return self if there else self._key_as_stored(self.store)
        found = Path(self.path)
        return self if found.exists() else Source(str(_path_as_stored(found)))

    def _key_as_stored(self, store: Store) -> "Source":
        plain = re.match(r"[\0-\x7f]*", self.path)
        assert plain is not None
        folder, depth = plain[0].rpartition("/")[0], self.path.rstrip("/").count("/") + 1
        for key in store.list(f"{folder}/" if folder else ""):
            spelled = "/".join(key.split("/")[:depth])  # the key, or a folder above it
            if same_name(spelled, self.path.rstrip("/")):
                return Source(spelled, store)
        return self

    def fetch(self) -> bytes | None:
        """Read it; None if there is no such file or object. Raises RequestError."""
        try:
            if self.store:
                stored = self.store.get(self.path)
                return stored.data if stored else None
            return Path(self.path).read_bytes()
        except _ABSENT:
            return None
        except StoreError as error:
            raise RequestError(str(error)) from error
        except (OSError, ValueError) as error:  # ValueError: the path is invalid
            reason = error.strerror if isinstance(error, OSError) else error
            raise RequestError(f"cannot read {self}: {reason}") from error


class SourceLocator:
    """Turns paths and URLs into sources, and opens each bucket once."""

    def __init__(self) -> None:
        self._buckets: dict[str, Store] = {}

    def locate(self, text: str, base: Source | None = None) -> Source:
        """The source at a path, `file:///path` or `s3://bucket/key`, which need not exist.

        base: the file that contains the path; relative paths start from its folder. Raises
        RequestError for any other URL.
        """
        url = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)/?(.*)", text, re.DOTALL)
        if url is None:
            return base.beside(text) if base else Source(text)
        scheme, host, path = url[1].lower(), url[2], url[3]
        if scheme == "s3" and host:
            bucket, path = split_s3(text)
            if bucket not in self._buckets:
                self._buckets[bucket] = open_store(bucket)
            return Source(path, self._buckets[bucket])
        if scheme == "file" and host in ("", "localhost"):
            return Source("/" + os.fsdecode(unquote_to_bytes(path)))
        raise RequestError(f"{text!r}: give a path, file:///path or s3://bucket/key")


def place_of(text: str) -> str:
    """The `place` of a path or URL, which need not exist. Raises RequestError for a wrong URL."""
    return text.rstrip("/") if text.startswith("s3://") else SourceLocator().locate(text).place


def same_name(one: str, other: str) -> bool:
    """Whether two names are equal or differ only in Unicode normalization."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def _path_as_stored(path: Path) -> Path:
    """The path with each part as it is spelled on disk; unchanged if a part does not exist."""
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        if (found / part).exists():
            found /= part
            continue
        try:
            spelled = (each for each in found.iterdir() if same_name(each.name, part))
            found = next(spelled)
        except (OSError, StopIteration):
            return path
    return found


def as_text(path: str) -> str:
    """A path as text; bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")
