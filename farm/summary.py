"""`summary.json`: what a batch has made, a row per clip; and so, what is left to do."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from farm.errors import StoreError
from farm.store import Store
from svd_engine.params import RenderParams

KEY = "summary.json"


class Row(BaseModel):
    """One clip: `name` and `seed` tell it from the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    picture: str  # the file it was made of
    seed: int
    status: Literal["done", "failed"]
    sha256: str | None = None  # of the frames' bytes, (F, H, W, 3) uint8
    parameters: RenderParams
    seconds: dict[str, float] = {}  # by stage
    worker: str | None = None
    error: str | None = None
    digest: str | None = None  # of the request: equal digests have equal frames

    @property
    def title(self) -> str:
        """What the clip is called in files and logs."""
        return f"{self.name}-seed{self.seed}"

    @property
    def video(self) -> str:
        """The store's key of the video."""
        return f"{self.title}.mp4"

    @property
    def thumbnail(self) -> str:
        """The store's key of the thumbnail."""
        return f"{self.title}.jpg"


class _Document(BaseModel):
    clips: list[Row] = []


class Summary:
    """The rows of a store, kept up to date there."""

    def __init__(self, store: Store) -> None:
        """Read the rows of earlier runs; StoreError where they cannot be understood."""
        self._store = store
        data = store.get(KEY)
        try:
            document = _Document.model_validate_json(data) if data else _Document()
        except ValidationError as error:
            raise StoreError(
                f"{store.where(KEY)} is not a batch's summary: {error.errors()[0]['msg']}; "
                "move it away, or give another --out"
            ) from error
        self._rows = {(row.name, row.seed): row for row in document.clips}

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def is_done(self, name: str, seed: int, digest: str) -> bool:
        """Whether the clip of that request is in the store."""
        row = self._rows.get((name, seed))
        return (
            row is not None
            and row.status == "done"
            and row.digest == digest
            and self._store.exists(row.video)
            and self._store.exists(row.thumbnail)
        )

    def add(self, row: Row) -> None:
        """Put a row in the place of the clip's former one, and write the summary."""
        self._rows[row.name, row.seed] = row
        self._write()

    def remove(self, row: Row) -> None:
        """Take the clip's row out, if there is one, and write the summary."""
        if self._rows.pop((row.name, row.seed), None):
            self._write()

    def _write(self) -> None:
        document = _Document(clips=self.rows)
        self._store.put(KEY, document.model_dump_json(indent=1).encode())
