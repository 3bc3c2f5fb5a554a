"""The results of the bench: rows, as a table on the terminal and as JSON."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """The result of one implementation of one stage."""

    stage: str
    implementation: str
    variant: str
    dtype: str
    seconds: float  # median of the calls after the first, if there were any
    first_seconds: float  # of the first call, which compiles and allocates
    ratio: float | None  # eager diffusers' seconds over these
    floor_share: float  # the lower bound of the seconds over these
    launches: int | None  # kernels on a GPU, dispatched operations on a CPU
    bytes: int | None  # nominal traffic; None if Triton kernels hide theirs
    peak_bytes: int | None  # of the engine alone on a GPU; None if other weights were loaded
    distance: float | None  # the largest difference from float32, over float32's largest value

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies a row."""
        return self.stage, self.implementation, self.variant


class Table:
    """Rows in order. Each is printed when it is added, and the file is written again."""

    def __init__(self, about: dict[str, Any], out: Path | None, say: Callable[[str], object]):
        """about: facts about the machine and the preset. say: prints a line."""
        self.rows: list[Row] = []
        self.about, self._out, self._say = about, out, say

    def add(self, row: Row) -> None:
        """Add a row, or replace an earlier one with the same key."""
        if not self.rows:
            heads = ("seconds", "first", "ratio", "floor", "launches", "GB", "peak GB", "distance")
            self._say(f"{'':38}" + "".join(f"{head:>9}" for head in heads))
        keys = [other.key for other in self.rows]
        if row.key in keys:
            self.rows[keys.index(row.key)] = row
        else:
            self.rows.append(row)
        self._say(_line(row))
        if self._out is not None:
            document = self.about | {"rows": [asdict(row) for row in self.rows]}
            self._out.write_text(json.dumps(document, indent=1) + "\n")

    def find(self, stage: str, implementation: str, variant: str) -> Row | None:
        """The row with a key, if there is one."""
        found = [r for r in self.rows if r.key == (stage, implementation, variant)]
        return found[0] if found else None


def _line(row: Row) -> str:
    def cell(value: float | None, form: str) -> str:
        return f"{'' if value is None else format(value, form):>9}"

    def billions(count: int | None) -> float | None:
        return None if count is None else count / 1e9

    return f"{row.stage} {row.implementation}, {row.variant}".ljust(38) + "".join(
        (
            cell(row.seconds, ".4f"),
            cell(row.first_seconds, ".3f"),
            cell(row.ratio, ".2f"),
            cell(row.floor_share, ".1%"),
            cell(row.launches, "d"),
            cell(billions(row.bytes), ".1f"),
            cell(billions(row.peak_bytes), ".1f"),
            cell(row.distance, ".1e"),
        )
    )
