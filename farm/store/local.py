"""A store in a folder."""

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from farm.errors import ConflictError, StoreError
from farm.store.protocol import RESERVED, Entry, Stored, check_key, is_key, probe

LOCK = f"{RESERVED}lock"
SCRATCH = f"{RESERVED}scratch-"
SCRATCH_S = 3600.0  # a scratch file older than this was left by a writer that was killed
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # there is no such object


class LocalStore:
    """A store in a folder, with one file per object. Equal contents have equal etags.

    Files are written under temporary names and moved into place, so that readers see either the
    whole old object or the whole new one. Once the first conditional put has created the lock file,
    every write holds its lock.
    """

    def __init__(self, folder: str | os.PathLike[str], *, make: bool = True) -> None:
        """Create the folder. Raises StoreError if it cannot be created or written to.

        With make=False the folder is never created: while it is missing, every write fails.
        """
        self.folder = Path(folder).expanduser().absolute()
        if not make:
            return
        with _explained("make the folder", self.folder):
            missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in missing:
                _sync(path.parent)
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise StoreError(f"cannot write to the folder {self.folder}: permission denied")

    @property
    def url(self) -> str:
        return str(self.folder)

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False
    ) -> str:
        path = self._path(key)
        conditional = if_none_match or if_match is not None
        with _explained("write", path):
            self._make_above(path)
            scratch = _write_scratch(path.parent, data)
            try:
                with self._locked(make=conditional):
                    if conditional and self._etag(path) != (None if if_none_match else if_match):
                        raise ConflictError(f"{path} was written by somebody else meanwhile")
                    scratch.replace(path)
            finally:
                scratch.unlink(missing_ok=True)
            self._sync_above(path)
        return _etag_of(data)

    def get(self, key: str) -> Stored | None:
        path = self._path(key)
        with _explained("read", path):
            try:
                data = path.read_bytes()
            except ABSENT:
                return None
        return Stored(data, _etag_of(data))

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with _explained("look for", path):
            return path.is_file()

    def size(self, key: str) -> int | None:
        path = self._path(key)
        with _explained("look at", path):
            return path.stat().st_size if path.is_file() else None

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _explained("delete", path), self._locked():
            try:
                path.unlink()
            except ABSENT:
                return
            _sync(path.parent)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        folder = prefix.rpartition("/")[0]
        if folder and not is_key(folder):
            return iter(())
        return self._walk(f"{folder}/" if folder else "", prefix, after)

    def entries(self, prefix: str) -> Iterator[Entry]:
        for key in self.list(prefix):
            path = self.folder / key
            with _explained("look at", path), suppress(*ABSENT):  # deleted meanwhile
                found = path.stat()
                yield Entry(key, found.st_size, found.st_mtime)

    def presign(
        self,
        key: str,
        expires_s: int = 3600,  # noqa: ARG002
        endpoint: str | None = None,  # noqa: ARG002
        filename: str = "",  # noqa: ARG002
    ) -> None:
        check_key(key)

    def where(self, key: str = "") -> str:
        return str(self._path(key) if key else self.folder)

    def check(self) -> None:
        probe(self)

    def sweep(self) -> int:
        """Delete the scratch files that killed writers left; returns their number."""
        swept = 0
        with _explained("sweep", self.folder):
            for folder, _, names in os.walk(self.folder):
                for name in names:
                    if name.startswith(SCRATCH) and _is_old(Path(folder, name)):
                        Path(folder, name).unlink(missing_ok=True)
                        swept += 1
        return swept

    def _path(self, key: str) -> Path:
        return self.folder / check_key(key)

    def _etag(self, path: Path) -> str | None:
        try:
            return _etag_of(path.read_bytes())
        except ABSENT:
            return None

    @contextmanager
    def _locked(self, make: bool = False) -> Iterator[None]:
        """Hold the store's write lock, which the system releases if this process dies.

        make: create the lock file if it does not exist. Without it, a store that never had a
        conditional write is not locked. The lock is on a file because NFS cannot lock folders.
        """
        try:
            lock = os.open(self.folder / LOCK, os.O_RDWR | (os.O_CREAT if make else 0), 0o666)
        except FileNotFoundError:
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[str]:
        """The keys below a folder (empty, or like `a/b/`) in byte order.

        A folder sorts by its name with the slash, as its keys do.
        """
        for key in self._entries(folder):
            if not key.endswith("/"):
                if key.startswith(prefix) and key > after:
                    yield key
            elif key[: len(prefix)] == prefix[: len(key)] and key >= after[: len(key)]:
                yield from self._walk(key, prefix, after)

    def _entries(self, folder: str) -> Sequence[str]:
        """The files and the folders (with a trailing slash) directly in a folder, sorted.

        Empty if the folder was deleted in the meantime.
        """
        with _explained("list", self.folder / folder):
            try:
                with os.scandir(self.folder / folder) as entries:
                    return sorted(
                        f"{folder}{entry.name}/" if entry.is_dir() else f"{folder}{entry.name}"
                        for entry in entries
                        if is_key(entry.name) and (entry.is_dir() or entry.is_file())
                    )
            except ABSENT:
                return []

    def _make_above(self, path: Path) -> None:
        """Create a file's parent folders, except the store's own.

        If the store's folder is gone, creating it would put a new store in its place.
        """
        for folder in reversed(path.relative_to(self.folder).parents[:-1]):
            (self.folder / folder).mkdir(exist_ok=True)

    def _sync_above(self, path: Path) -> None:
        """Sync all folders above a file to disk: any of them may have just been created."""
        for folder in path.parents:
            _sync(folder)
            if folder == self.folder:
                return


def _etag_of(data: bytes) -> str:
    return sha256(data).hexdigest()


def _write_scratch(folder: Path, data: bytes) -> Path:
    """Write the data to a new temporary file and sync it to disk."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=SCRATCH)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # mkstemp makes files that only their owner can read
            file.write(data)
            file.flush()
            os.fsync(handle)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _is_old(scratch: Path) -> bool:
    try:
        return time.time() - scratch.stat().st_mtime > SCRATCH_S
    except FileNotFoundError:  # its writer has moved it into place
        return False


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot
            raise
    finally:
        os.close(handle)


@contextmanager
def _explained(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise StoreError(f"cannot {verb} {path}: {why}", reason=why) from error
