"""A folder as a store."""

import os
import tempfile
from pathlib import Path, PurePosixPath

from farm.errors import StoreError


class LocalStore:
    """A folder as a store. Writes go to a temporary name and are moved into place."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Make the folder; StoreError where it cannot be made or written to."""
        self.folder = Path(folder).expanduser().absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise StoreError(f"cannot write to the folder {self.folder}: permission denied")

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(scratch).chmod(0o644)  # mkstemp lets nobody else read it
                Path(scratch).replace(path)
            finally:
                Path(scratch).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error

    def get(self, key: str) -> bytes | None:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self._path(key)}: {error.strerror}") from error

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def where(self, key: str = "") -> str:
        return str(self._path(key) if key else self.folder)

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise StoreError(f"not a key: {key!r}; give a relative path with no '..'")
        return self.folder.joinpath(*parts.parts)
