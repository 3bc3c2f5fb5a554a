"""`summary.json`: what a batch has made, a row per clip; and so, what is left to do."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from farm.errors import StoreError
from farm.store import Store
from farm.sweep import title
from svd_engine.params import RenderParams

KEY = "summary.json"
WRITE_EVERY_S = 1.0
LOOKERS = 16  # clips looked for at once: S3 answers late


class Row(BaseModel):
    """One clip: its title, of `name` and `variation`, tells it from the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    picture: str  # the file or the object it was made of
    seed: int
    # The seed, and what else varied: {"seed": 3, "fps": 7}.
    variation: dict[str, int | float | str | tuple[str, ...]]
    status: Literal["done", "failed", "cancelled"]
    sha256: str | None = None  # of the frames' bytes, (F, H, W, 3) uint8
    parameters: RenderParams
    seconds: dict[str, float] = {}  # by stage
    gpu_seconds: float = 0.0  # a worker's time, lost attempts included
    attempts: int = 0
    worker: str | None = None
    job: str | None = None  # its id
    error: str | None = None
    digest: str | None = None  # of the request: equal digests have equal frames

    @model_validator(mode="before")
    @classmethod
    def _seed_varies(cls, given: Any) -> Any:
        """Rows from before there were sweeps have a seed and no variation."""
        if isinstance(given, dict) and "seed" in given and not given.get("variation"):
            return {**given, "variation": {"seed": given["seed"]}}
        return given

    @property
    def title(self) -> str:
        """What the clip is called in files and logs."""
        return title(self.name, self.variation)

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
    """The rows of a store, kept up to date there: each row names files that are written already."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the rows of earlier runs; StoreError where they cannot be understood."""
        self._store = store
        self._clock = clock
        self._due = clock()  # when rows are written again
        self._changed = False  # since they were
        stored = store.get(KEY)
        try:
            document = _Document.model_validate_json(stored.data) if stored else _Document()
        except ValidationError as error:
            raise StoreError(
                f"{store.where(KEY)} is not a batch's summary: {error.errors()[0]['msg']}; "
                "move it away, or give another --out"
            ) from error
        self._rows = {row.title: row for row in document.clips}

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def is_done(self, title: str, digest: str) -> bool:
        """Whether the clip of that request is in the store."""
        row = self._rows.get(title)
        return (
            row is not None
            and row.status == "done"
            and row.digest == digest
            and self._store.exists(row.video)
            and self._store.exists(row.thumbnail)
        )

    def done(self, digests: Mapping[str, str]) -> set[str]:
        """The titles of those clips, given with their requests' digests, that are done."""
        with ThreadPoolExecutor(LOOKERS) as pool:
            answers = pool.map(self.is_done, digests.keys(), digests.values())
            return {title for title, done in zip(digests, answers, strict=True) if done}

    def add(self, row: Row) -> None:
        """Put a row in the place of the clip's former one, once its files are written.

        All rows are written with the first of them, and then at most once a second, or in a tenth
        of the time where they are many; the last ones with `flush`.
        """
        self._rows[row.title] = row
        self._changed = True
        if self._clock() >= self._due:
            self.flush()

    def remove(self, *titles: str) -> None:
        """Take rows out, and write what is left, before the clips' files change.

        Those of many clips at once, as each call writes all rows that stay.
        """
        gone = [row for title in titles if (row := self._rows.pop(title, None))]
        self._changed |= bool(gone)
        if any(row.status == "done" for row in gone):  # the others name no files
            self.flush()

    def flush(self) -> None:
        """Write the rows, if they have changed."""
        if not self._changed:
            return
        began = self._clock()
        document = _Document(clips=self.rows)
        self._store.put(KEY, document.model_dump_json(indent=1).encode())
        ended = self._clock()
        self._due = ended + max(WRITE_EVERY_S, 9 * (ended - began))
        self._changed = False
