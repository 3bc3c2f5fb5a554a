"""Where a batch's inputs lie: files, and objects of S3."""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote_to_bytes

from farm.errors import RequestError, StoreError
from farm.store import Store, open_store, split_s3

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True)
class Source:
    """A file's path, or an object's key and the store it is in."""

    path: str
    store: Store | None = None

    def __str__(self) -> str:
        """Its place, for people; as text, where a file's name is not UTF-8 too."""
        return self.store.where(self.path) if self.store else _as_text(self.path)

    @property
    def stem(self) -> str:
        """Its name without the suffix, as text."""
        return _as_text(PurePosixPath(self.path).stem)

    @property
    def folder(self) -> str:
        """The folder it lies in, as `Store.where()` says it."""
        if self.store:
            return self.store.where(self.path).rpartition("/")[0]
        return str(Path(self.path).absolute().parent)

    def beside(self, path: str) -> "Source":
        """What a path means that is written in this file."""
        if self.store is None or path.startswith("/"):
            return Source(str(Path(self.path).parent / path))
        key = normpath(str(PurePosixPath(self.path).parent / path))
        if key.startswith(".."):
            raise RequestError(f"{path!r} leads out of the bucket of {self}")
        return Source(key, self.store)

    def fetch(self) -> bytes | None:
        """Its bytes; None where nothing is there, RequestError where it cannot be read."""
        try:
            if self.store:
                stored = self.store.get(self.path)
                return stored.data if stored else None
            return Path(self.path).read_bytes()
        except _ABSENT:
            return None
        except StoreError as error:
            raise RequestError(str(error)) from error
        except (OSError, ValueError) as error:  # ValueError: the path itself is none
            reason = error.strerror if isinstance(error, OSError) else error
            raise RequestError(f"cannot read {self}: {reason}") from error


class Places:
    """Reads paths and URLs; opens each bucket once."""

    def __init__(self) -> None:
        self._buckets: dict[str, Store] = {}

    def locate(self, text: str, base: Source | None = None) -> Source:
        """What a path, `file:///path` or `s3://bucket/key` names, be it there or not.

        base: the file that it is written in, whose folder a path is of.
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


def _as_text(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
