"""`index.html`: the clips of a batch side by side, playing. One file, no script."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.batch.summary import Row
from farm.batch.sweep import label
from farm.quantities import counted
from svd_engine.params import RenderDefaults, RenderParams
from svd_engine.templates import templates_in
from svd_engine.values import as_label

# A browser that plays hundreds of clips does nothing else; above this many, none plays by itself.
AUTOPLAY_UP_TO = 64
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
    groups: Sequence[_Group]


def contact_sheet(rows: Sequence[Row]) -> str:
    """The page; its clips are beside it in the store."""
    counts = [sum(row.status == status for row in rows) for status in ("failed", "cancelled")]
    done = len(rows) - sum(counts)
    parts = [counted(done, "clip")]
    parts += (f"{n} {word}" for n, word in zip(counts, ("failed", "cancelled"), strict=True) if n)
    pictures: dict[str, list[Row]] = {}
    for row in rows:
        pictures.setdefault(row.name, []).append(row)
    environment = templates_in(TEMPLATES)
    environment.globals["playing"] = done <= AUTOPLAY_UP_TO
    return environment.get_template("contact_sheet.html").render(
        title=", ".join(parts),
        sections=[_section(name, pictures[name]) for name in sorted(pictures)],
    )


def _section(name: str, rows: Sequence[Row]) -> _Section:
    """A picture's clips: those that vary in the same parameters side by side."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.variation), []).append(row)
    ordered = [_group(groups[axes]) for axes in sorted(groups, key=len)]
    return _Section(name, rows[0].picture, ordered)


def _group(rows: Sequence[Row]) -> _Group:
    """What clips have in common, then a row of them, or a table, or several tables."""
    axes = {axis: _in_order({row.variation[axis] for row in rows}) for axis in rows[0].variation}
    varied = [axis for axis, values in axes.items() if len(values) > 1] or list(axes)[:1]
    facts = [_facts(row.parameters, set(axes)) for row in rows]
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
