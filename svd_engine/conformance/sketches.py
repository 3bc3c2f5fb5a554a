"""Draws the tensors of a trace that depart, beside the right ones, while they are judged."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

from torch import Tensor

from svd_engine.conformance.findings import Finding
from svd_engine.conformance.pictures import heat, picture, some_frames, url
from svd_engine.conformance.traces import split_key

LONGEST = 384  # pixels of a picture's longer side, at most
ROOM = 8_000_000  # characters of all pictures of a page
FEW_CHANNELS = 4  # of more than these, the half that departs more is drawn


@dataclass(frozen=True)
class Row:
    """A frame, as data URLs: theirs, the right one, and their difference."""

    what: str  # which frame; empty where there is only one
    pictures: tuple[str, str, str]


@dataclass(frozen=True)
class Sketch:
    """The pictures of a tensor that departs."""

    finding: Finding
    largest: float  # difference, which is drawn white
    channels: str  # which were drawn; empty if all were
    rows: tuple[Row, ...]


class Sketches:
    """Draws what departs as soon as it is judged, so that no tensor is kept or computed again.

    Of the tensors of one stage, only that of the first step that departs is drawn: those of later
    steps look alike. Vectors are not drawn.
    """

    def __init__(self) -> None:
        self._of_stage: dict[str, tuple[int, Sketch]] = {}

    def __call__(self, finding: Finding, theirs: Tensor, right: Tensor) -> None:
        """Draw a tensor, as `diagnose` calls its `show`."""
        name, step = split_key(finding.key)
        at = step or 0
        if theirs.ndim < 4 or self._of_stage.get(name, (at + 1,))[0] <= at:
            return
        if name == "frames.uint8":
            theirs, right = theirs.movedim(-1, 1), right.movedim(-1, 1)
        self._of_stage[name] = at, _sketch(finding, theirs.float(), right.float())

    def drawn(self, keys: Iterable[str]) -> Iterator[Sketch]:
        """The sketches of these tensors, with as many rows as there is room for.

        Each has a first row before any has a second.
        """
        of_key = {sketch.finding.key: sketch for _, sketch in self._of_stage.values()}
        sketches = [of_key[key] for key in keys if key in of_key]
        kept, left = [list[Row]() for _ in sketches], ROOM
        for rows in zip_longest(*(sketch.rows for sketch in sketches)):
            for row, others in zip(rows, kept, strict=True):
                size = sum(map(len, row.pictures)) if row else 0
                if row and size <= left:
                    others.append(row)
                    left -= size
        return (replace(s, rows=tuple(rows)) for s, rows in zip(sketches, kept, strict=True))


def _sketch(finding: Finding, theirs: Tensor, right: Tensor) -> Sketch:
    """Draw the first frame, the middle one, the last, and the one that departs most."""
    halves = right.shape[0] if right.ndim == 5 else 1
    a, b = (x.nan_to_num().flatten(0, -4) for x in (theirs, right))
    channels, drawn_channels = _channels(a - b)
    a, b = a[:, channels], b[:, channels]
    departs = (a - b).abs().amax(dim=(1, 2, 3))
    largest, shades = departs.max().item(), (b.min().item(), b.max().item())
    rows = []
    for at in sorted({*some_frames(len(b)), int(departs.argmax())}):
        drawn = picture(a[at], shades), picture(b[at], shades), heat(a[at] - b[at], largest)
        urls = url(drawn[0], LONGEST), url(drawn[1], LONGEST), url(drawn[2], LONGEST)
        rows.append(Row(_frame(at, len(b) // halves, halves), urls))
    return Sketch(finding, largest, drawn_channels, tuple(rows))


def _frame(at: int, frames: int, halves: int) -> str:
    """Which frame it is, in words; empty if it is the only one."""
    half = ("unconditional half", "conditional half")[at // frames] if halves == 2 else ""
    frame = f"frame {at % frames}" if frames > 1 else ""
    return ", ".join(part for part in (half, frame) if part)


def _channels(difference: Tensor) -> tuple[slice, str]:
    """The channels to draw, and their numbers in words; empty if they are all."""
    count = difference.shape[1]
    if count <= FEW_CHANNELS:
        return slice(None), ""
    size = (count + 1) // 2
    departs = [half.abs().max().item() for half in difference.split(size, dim=1)]
    first = 0 if departs[0] >= departs[1] else size
    return slice(first, first + size), f"channels {first} to {min(first + size, count) - 1}"
