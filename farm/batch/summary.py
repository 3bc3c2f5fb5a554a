"""`summary.json`: what a batch has made, a row per clip; and so, what is left to do."""

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

KEY = "summary.json"
DAMAGED_KEY = "summary.damaged.json"
WRITE_EVERY_S = 1.0
LOOKERS = 16  # clips looked for at once: S3 answers late


class Content(BaseModel):
    """What a file was when it was written: it may be cut short since, or emptied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int  # in bytes
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Content":
        return cls(size=len(data), sha256=digest_of(data))


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
    model: str | None = None  # as it was asked for; None in rows of before 0.3
    files: dict[str, Content] = {}  # by key: the video and the thumbnail

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
        """Read the rows of earlier runs; what is damaged is put aside, and made anew.

        StoreError where it is another program's.
        """
        self._store = store
        self._clock = clock
        self._due = clock()  # when rows are written again
        self._changed = False  # since they were
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
        """Whether the clip of that request is in the store, as far as its files' sizes tell."""
        return self.why_not(title, digest) is None

    def why_not(self, title: str, digest: str, verify: bool = False) -> str | None:
        """None where the clip of that request is done; what is wrong with its files, or nothing.

        verify: read the files, and compare their digests.
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
        """The titles of those clips, given with their requests' digests, that are done."""
        return {title for title, why in self.look(digests).items() if why is None}

    def look(self, digests: Mapping[str, str], verify: bool = False) -> dict[str, str | None]:
        """For each of those clips what `why_not` says."""
        with ThreadPoolExecutor(LOOKERS) as pool:
            answers = pool.map(lambda each: self.why_not(each[0], each[1], verify), digests.items())
            return dict(zip(digests, answers, strict=True))

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
        if self._aside is not None:
            self._store.put(DAMAGED_KEY, self._aside)
            self._aside = None
        document = _Document(clips=self.rows)
        self._store.put(KEY, document.model_dump_json(indent=1).encode())
        ended = self._clock()
        self._due = ended + max(WRITE_EVERY_S, 9 * (ended - began))
        self._changed = False


def _read(data: bytes, where: str) -> tuple[list[Row], str]:
    """The rows that can be read, and why others cannot. StoreError where it is something else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:  # cut short, or emptied
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
