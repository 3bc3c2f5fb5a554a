"""`index.html`: the clips of a batch beside their pictures, playing where they are in view."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.batch.summary import Row
from farm.batch.sweep import label
from farm.quantities import counted, lasting
from svd_engine.params import RenderDefaults, RenderParams
from svd_engine.templates import templates_in
from svd_engine.values import as_label

SIDE_BY_SIDE = 2  # clips of a picture, up to which the pictures themselves are side by side
WIDE = 1.2  # width over height, from which on clips get wider tiles
TEMPLATES = Path(__file__).with_name("templates")
# The texts that every clip has, and the parameters that they show. Other parameters are shown if
# they differ from SVD's defaults.
_FACTS: dict[tuple[str, ...], Callable[[RenderParams], str]] = {
    ("width", "height"): lambda params: f"{params.width} x {params.height}",
    ("num_frames",): lambda params: counted(params.frames, "frame"),
    ("fps",): lambda params: f"{params.fps} fps",
    ("num_inference_steps",): lambda params: counted(params.steps, "step"),
    ("motion_bucket_id",): lambda params: f"motion {params.motion_bucket_id}",
}
_SHOWN = {"seed", "sigmas"}.union(*_FACTS)
_Axis = tuple[str, Sequence[Any]]  # a parameter and its values
_Place = tuple[Any, ...]  # a value of each axis


@dataclass(frozen=True)
class _Clip:
    """A clip, or why there is none. facts: the texts that its group does not share."""

    row: Row
    heading: str
    facts: Sequence[str]


@dataclass(frozen=True)
class _Table:
    """Clips by two parameters; None for a combination that was not rendered."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[_Clip | None]]]


@dataclass(frozen=True)
class _Group:
    """Clips that vary in the same parameters: a row, or tables if there are several parameters."""

    facts: Sequence[str]
    row: Sequence[_Clip] = ()
    tables: Sequence[_Table] = ()


@dataclass(frozen=True)
class _Section:
    """All clips of a picture."""

    name: str
    picture: str
    source: str  # the store's key of the picture
    groups: Sequence[_Group]

    @property
    def shape(self) -> str:
        """The width and the height of a clip, as CSS wants them."""
        group = self.groups[0]
        clips = [*group.row, *(c for table in group.tables for _, row in table.rows for c in row)]
        params = next(clip.row.parameters for clip in clips if clip)
        return f"{params.width} / {params.height}"

    @property
    def is_small(self) -> bool:
        """Whether others have room beside it."""
        return not any(group.tables or len(group.row) > SIDE_BY_SIDE for group in self.groups)


def contact_sheet(rows: Sequence[Row], command: str = "", at: float | None = None) -> str:
    """The page; its clips and pictures are beside it in the store.

    command: what made it, as a user would type it. at: when, in seconds since 1970.
    """
    counts = [sum(row.status == status for row in rows) for status in ("failed", "cancelled")]
    done = len(rows) - sum(counts)
    pictures_named = len({row.name for row in rows})
    parts = [counted(pictures_named, "picture")] if pictures_named > 1 else []
    parts += [counted(done, "clip")]
    parts += (f"{n} {word}" for n, word in zip(counts, ("failed", "cancelled"), strict=True) if n)
    pictures: dict[str, list[Row]] = {}
    for row in rows:
        pictures.setdefault(row.name, []).append(row)
    shared = _shared(rows)
    wide = sum(_side(row.parameters) >= WIDE for row in rows)
    return (
        templates_in(TEMPLATES)
        .get_template("contact_sheet.html")
        .render(
            title=", ".join(parts),
            about=_about(rows, shared, at),
            command=command,
            counts={"all": len(rows), "done": done, "failed": sum(counts)},
            wide=2 * wide > len(rows),
            sections=[_section(name, pictures[name], shared) for name in sorted(pictures)],
        )
    )


def _side(params: RenderParams) -> float:
    return (params.width or 1) / (params.height or 1)


def _shared(rows: Sequence[Row]) -> list[str]:
    """The texts about parameters that all clips have, if there are several to have them."""
    texts = [_facts(row.parameters, set(row.variation)) for row in rows]
    return [fact for fact in texts[0] if all(fact in other for other in texts)] if texts else []


def _about(rows: Sequence[Row], shared: Sequence[str], at: float | None) -> list[tuple[str, str]]:
    """What holds for the whole page, as pairs of a word and a text."""
    models = sorted({row.model for row in rows if row.model})
    spent = sum(sum(row.seconds.values()) for row in rows)
    about = [("Model" if len(models) == 1 else "Models", ", ".join(models))]
    about += [("Shared", " · ".join(shared))]
    if spent:
        about += [("Work", f"{lasting(spent)} in all")]
    if at is not None:
        about += [("Made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at)))]
    return [(word, text) for word, text in about if text]


def _section(name: str, rows: Sequence[Row], shared: Sequence[str]) -> _Section:
    """A picture's clips: those that vary in the same parameters side by side."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.variation), []).append(row)
    ordered = [_group(groups[axes], shared) for axes in sorted(groups, key=len)]
    return _Section(name, rows[0].picture, rows[0].source, ordered)


def _group(rows: Sequence[Row], shared: Sequence[str]) -> _Group:
    """What clips have in common, then a row of them, or a table, or several tables.

    shared: what is said at the top of the page.
    """
    axes = {axis: _in_order({row.variation[axis] for row in rows}) for axis in rows[0].variation}
    varied = [axis for axis, values in axes.items() if len(values) > 1] or list(axes)[:1]
    facts = [
        [fact for fact in _facts(row.parameters, set(axes)) if fact not in shared] for row in rows
    ]
    common = [fact for fact in facts[0] if all(fact in other for other in facts)]
    fixed = [_heading(axis, values[0]) for axis, values in axes.items() if axis not in varied]
    clips: dict[_Place, _Clip] = {}
    for row, own in zip(rows, facts, strict=True):
        place = tuple(row.variation[axis] for axis in varied)
        heading = _heading(varied[0], place[0]) if len(varied) == 1 else ""
        texts = [fact for fact in own if fact not in common]
        clips[place] = _Clip(row, heading, [*texts, f"{sum(row.seconds.values()):.1f} s"])
    if len(varied) > 1:
        tables = _tables([(axis, axes[axis]) for axis in varied], clips)
        return _Group([*fixed, *common], tables=tables)
    return _Group([*fixed, *common], row=[clips[value,] for value in axes[varied[0]]])


def _tables(axes: Sequence[_Axis], clips: Mapping[_Place, _Clip]) -> list[_Table]:
    """A table of the first two axes for each combination of the others' values."""
    (across, columns), (down, rows), *others = axes
    tables = []
    for rest in _in_order({place[2:] for place in clips}):
        fixed = [_heading(axis, value) for (axis, _), value in zip(others, rest, strict=True)]
        tables.append(
            _Table(
                caption=" · ".join(fixed) or f"{label(across)} by {label(down)}",
                columns=[_heading(across, value) for value in columns],
                rows=[
                    (_heading(down, row), [clips.get((value, row, *rest)) for value in columns])
                    for row in rows
                ],
            )
        )
    return tables


def _facts(params: RenderParams, axes: set[str]) -> list[str]:
    """The texts about a clip's parameters, except those that the headings show."""
    texts = [text(params) for names, text in _FACTS.items() if not axes.issuperset(names)]
    fields = RenderParams.model_fields | RenderDefaults.model_fields
    others = [name for name in fields if name not in _SHOWN and name not in axes]
    for name in others:
        value = getattr(params, name)
        if value != fields[name].default:
            texts.append(_heading(name, value))
    return texts


def _heading(axis: str, value: Any) -> str:
    return f"{label(axis)} {as_label(value)}"


def _in_order(values: set[Any]) -> list[Any]:
    """The values sorted; numbers come before texts, because an old summary may have both."""
    return sorted(values, key=_rank)


def _rank(value: Any) -> Any:
    return (
        [_rank(v) for v in value] if isinstance(value, tuple) else (isinstance(value, str), value)
    )
