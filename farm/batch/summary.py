"""`summary.json`: the record of a batch's clips, from which a rerun knows what is left to do."""

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from farm.batch.sweep import title
from farm.errors import StoreError
from farm.model.request import digest_of
from farm.quantities import counted
from farm.store import Store
from svd_engine.params import RenderParams
from svd_engine.values import Value

KEY = "summary.json"
DAMAGED_KEY = "summary.damaged.json"
WRITE_EVERY_S = 1.0
LOOKERS = 16  # clips checked at once, because S3 is slow to answer


class Content(BaseModel):
    """A file's size and digest when it was written, to detect later damage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int  # in bytes
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Content":
        return cls(size=len(data), sha256=digest_of(data))


class Row(BaseModel):
    """One clip, identified by its title, which is made of `name` and `variation`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    picture: str  # the path or URL of its picture
    seed: int
    # The seed and the parameters that were swept: {"seed": 3, "fps": 7}.
    variation: dict[str, Value]
    status: Literal["done", "failed", "cancelled"]
    sha256: str | None = None  # the digest of the frames' bytes, (F, H, W, 3) uint8
    parameters: RenderParams
    seconds: dict[str, float] = {}  # by stage
    gpu_seconds: float = 0.0  # the time of workers, including lost attempts
    attempts: int = 0
    worker: str | None = None
    job: str | None = None  # the job's id
    error: str | None = None
    digest: str | None = None  # the request's digest; equal digests have equal frames
    model: str | None = None  # the model that was asked for; None in rows from before 0.3
    files: dict[str, Content] = {}  # the video and the thumbnail, by key

    @model_validator(mode="before")
    @classmethod
    def _seed_varies(cls, given: Any) -> Any:
        """Complete rows from before sweeps existed, which have a seed and no variation."""
        if isinstance(given, dict) and "seed" in given and not given.get("variation"):
            return {**given, "variation": {"seed": given["seed"]}}
        return given

    @property
    def title(self) -> str:
        """The clip's name in files and logs."""
        return title(self.name, self.variation)

    @property
    def video(self) -> str:
        """The store's key of the video."""
        return f"{self.title}.mp4"

    @property
    def thumbnail(self) -> str:
        """The store's key of the thumbnail."""
        return f"{self.title}.jpg"

    @property
    def source(self) -> str:
        """The store's key of the picture, made small for the page."""
        return f"{self.name}.source.jpg"


class _Document(BaseModel):
    clips: list[Row] = []


class Summary:
    """The rows in a store's `summary.json`. A row is written only after the files that it names."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the rows of earlier runs.

        A damaged file is kept under DAMAGED_KEY when rows are written again, and `damage` describes
        it. Raises StoreError if the file is not a batch's summary.
        """
        self._store = store
        self._clock = clock
        self._due = clock()  # the earliest time of the next write
        self._changed = False  # whether rows have changed since the last write
        stored = store.get(KEY)
        rows, damage = _read(stored.data, store.where(KEY)) if stored else ([], "")
        self._rows = {row.title: row for row in rows}
        self.damage = f"{store.where(KEY)}: {damage}" if damage else ""
        if stored and damage:
            self._aside: bytes | None = stored.data
            self._changed = True
        else:
            self._aside = None

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def is_done(self, title: str, digest: str) -> bool:
        """Whether the request's clip is in the store, judged by the sizes of its files."""
        return self.why_not(title, digest) is None

    def why_not(self, title: str, digest: str, verify: bool = False) -> str | None:
        """Why the request's clip is not done; None if it is done.

        The reason is what is wrong with its files; it is empty if there is no finished clip.
        verify: read the files and compare their digests.
        """
        row = self._rows.get(title)
        if row is None or row.status != "done" or row.digest != digest:
            return ""
        faults = (
            self._fault(key, row.files.get(key), verify) for key in (row.video, row.thumbnail)
        )
        return next((fault for fault in faults if fault), None)

    def _fault(self, key: str, content: Content | None, verify: bool) -> str:
        size = self._store.size(key)
        if size is None:
            return f"{key} is gone"
        if size != content.size if content else size == 0:
            return f"{key} has {counted(size, 'byte')}" + (f" of {content.size}" if content else "")
        if not verify:
            return ""
        if content is None:
            return f"{key}: its digest was not recorded"
        stored = self._store.get(key)
        whole = stored is not None and digest_of(stored.data) == content.sha256
        return "" if whole else f"{key} is not what was written"

    def done(self, digests: Mapping[str, str]) -> set[str]:
        """The titles of the clips that are done. digests: the request's digest of each title."""
        return {title for title, why in self.look(digests).items() if why is None}

    def look(self, digests: Mapping[str, str], verify: bool = False) -> dict[str, str | None]:
        """The result of `why_not` for each clip. digests: the request's digest of each title."""
        with ThreadPoolExecutor(LOOKERS) as pool:
            answers = pool.map(lambda each: self.why_not(each[0], each[1], verify), digests.items())
            return dict(zip(digests, answers, strict=True))

    def add(self, row: Row) -> None:
        """Add or replace a clip's row, after its files are written.

        The first call writes all rows. Later calls do so at most once a second, and less often if
        that would take more than a tenth of the time. `flush` writes what is left.
        """
        self._rows[row.title] = row
        self._changed = True
        if self._clock() >= self._due:
            self.flush()

    def remove(self, *titles: str) -> None:
        """Remove the rows of clips before their files change, and write the others.

        Remove many clips in one call: each call writes all the rows that stay.
        """
        gone = [row for title in titles if (row := self._rows.pop(title, None))]
        self._changed |= bool(gone)
        if any(row.status == "done" for row in gone):  # other rows name no files
            self.flush()

    def flush(self) -> None:
        """Write the rows if they have changed."""
        if not self._changed:
            return
        began = self._clock()
        if self._aside is not None:
            self._store.put(DAMAGED_KEY, self._aside)
            self._aside = None
        document = _Document(clips=self.rows)
        self._store.put(KEY, document.model_dump_json(indent=1).encode())
        ended = self._clock()
        self._due = ended + max(WRITE_EVERY_S, 9 * (ended - began))
        self._changed = False


def _read(data: bytes, where: str) -> tuple[list[Row], str]:
    """The readable rows, and a description of the damage. StoreError if it is something else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:  # the file was cut short or emptied
        return [], f"not JSON: {error}"
    found = document.get("clips") if isinstance(document, dict) else None
    rows = [_row(each) for each in found] if isinstance(found, list) else None
    if rows is None or (rows and not any(rows)):
        raise StoreError(f"{where} is not a batch's summary; move it away, or give another --out")
    bad = rows.count(None)
    return [row for row in rows if row], f"{counted(bad, 'row')} cannot be read" if bad else ""


def _row(given: object) -> Row | None:
    try:
        return Row.model_validate(given)
    except ValidationError:
        return None
