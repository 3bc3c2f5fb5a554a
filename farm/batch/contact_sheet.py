"""`index.html`: the clips of a batch side by side, playing. One file, no script."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from farm.batch.summary import Row
from farm.batch.sweep import label, written
from farm.quantities import counted
from svd_engine.params import RenderDefaults, RenderParams

# A browser that plays hundreds of clips does nothing else; these wait to be asked.
AUTOPLAY_UP_TO = 64
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }}
  body {{ margin: 2rem auto; max-width: 96rem; padding: 0 1rem; }}
  h1 {{ font-size: 1.3rem; }}
  h2 {{ font-size: 1.05rem; margin: 2.5rem 0 0; overflow-wrap: anywhere; }}
  p {{ margin: 0; }}
  p, figcaption {{ font-size: .85rem; opacity: .8; overflow-wrap: anywhere; }}
  small {{ font-weight: 400; opacity: .7; }}
  .row {{ display: grid; gap: 1rem; margin-top: .75rem;
    grid-template-columns: repeat(auto-fill, minmax(min(16rem, 100%), 1fr)); }}
  .scroll {{ overflow-x: auto; margin-top: .75rem; }}
  table {{ border-spacing: 0; }}
  caption, th {{ text-align: left; font-weight: 600; font-size: .85rem; }}
  caption {{ padding-bottom: .25rem; }}
  th, td {{ padding: 0 .75rem .75rem 0; vertical-align: top; }}
  thead th {{ padding-bottom: .25rem; }}
  th[scope=row] {{ position: sticky; left: 0; z-index: 1; background: Canvas;
    width: 4rem; min-width: 3.5rem; }}
  tbody td {{ width: 16rem; min-width: min(16rem, 56vw); }}
  figure {{ margin: 0; }}
  video {{ display: block; width: 100%; height: auto; border-radius: 6px; background: #8882; }}
  figcaption {{ margin-top: .25rem; }}
  .failed {{ border-left: 4px solid #d33; padding-left: .6rem; }}
  .cancelled {{ border-left: 4px solid #888; padding-left: .6rem; }}
</style>
<h1>{title}</h1>
<main>
{sections}
</main>
</html>
"""
# What is said of clips, and of which parameters that tells; of others, what is not SVD's default.
_FACTS = {
    ("width", "height"): "{0.width} x {0.height}",
    ("num_frames",): "{0.num_frames} frames",
    ("fps",): "{0.fps} fps",
    ("num_inference_steps",): "{0.steps} steps",
    ("motion_bucket_id",): "motion {0.motion_bucket_id}",
}
_TOLD = {"seed", "sigmas"}.union(*_FACTS)
_Axis = tuple[str, Sequence[Any]]  # a parameter and its values
_Place = tuple[Any, ...]  # a value of each axis


def contact_sheet(rows: Sequence[Row]) -> str:
    """The page; its clips are beside it in the store."""
    counts = [sum(row.status == status for row in rows) for status in ("failed", "cancelled")]
    done = len(rows) - sum(counts)
    parts = [counted(done, "clip")]
    parts += (f"{n} {word}" for n, word in zip(counts, ("failed", "cancelled"), strict=True) if n)
    pictures: dict[str, list[Row]] = {}
    for row in rows:
        pictures.setdefault(row.name, []).append(row)
    playing = done <= AUTOPLAY_UP_TO
    sections = (_section(name, pictures[name], playing) for name in sorted(pictures))
    return _PAGE.format(title=", ".join(parts), sections="\n".join(sections))


def _section(name: str, rows: Sequence[Row], playing: bool) -> str:
    """A picture's clips: those that vary in the same parameters side by side."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.variation), []).append(row)
    grids = "\n".join(_group(groups[axes], playing) for axes in sorted(groups, key=len))
    source = f"<small>{escape(rows[0].picture)}</small>"
    return f"<section>\n<h2>{escape(name)} {source}</h2>\n{grids}\n</section>"


def _group(rows: Sequence[Row], playing: bool) -> str:
    """What clips have in common, then a row of them, or a table, or several tables."""
    axes = {axis: _in_order({row.variation[axis] for row in rows}) for axis in rows[0].variation}
    varied = [axis for axis, values in axes.items() if len(values) > 1] or list(axes)[:1]
    facts = [_facts(row.parameters, set(axes)) for row in rows]
    common = [fact for fact in facts[0] if all(fact in other for other in facts)]
    fixed = [_heading(axis, values[0]) for axis, values in axes.items() if axis not in varied]
    figures: dict[_Place, str] = {}
    for row, own in zip(rows, facts, strict=True):
        place = tuple(row.variation[axis] for axis in varied)
        heading = _heading(varied[0], place[0]) if len(varied) == 1 else ""
        figures[place] = _figure(row, heading, [f for f in own if f not in common], playing)
    line = f"<p>{escape(' · '.join(fixed + common))}</p>"
    if len(varied) > 1:
        return f"{line}\n{_tables([(axis, axes[axis]) for axis in varied], figures)}"
    ordered = "\n".join(figures[value,] for value in axes[varied[0]])
    return f'{line}\n<div class="row">\n{ordered}\n</div>'


def _tables(axes: Sequence[_Axis], figures: Mapping[_Place, str]) -> str:
    """A table of the first two axes for each combination of the others' values."""
    (across, columns), (down, rows), *others = axes
    head = "".join(f'<th scope="col">{escape(_heading(across, value))}</th>' for value in columns)
    tables = []
    for rest in _in_order({place[2:] for place in figures}):
        said = " · ".join(_heading(axis, v) for (axis, _), v in zip(others, rest, strict=True))
        said = escape(said or f"{label(across)} by {label(down)}")
        lines = "\n".join(
            f'<tr><th scope="row">{escape(_heading(down, row))}</th>'
            + "".join(
                f"<td>{figures.get((c, row, *rest), '<p>not rendered</p>')}</td>" for c in columns
            )
            + "</tr>"
            for row in rows
        )
        tables.append(
            f'<div class="scroll" role="region" aria-label="{said}" tabindex="0">\n'
            f"<table>\n<caption>{said}</caption>\n<thead><tr><td></td>{head}</tr></thead>\n"
            f"<tbody>\n{lines}\n</tbody>\n</table>\n</div>"
        )
    return "\n".join(tables)


def _figure(row: Row, heading: str, facts: Sequence[str], playing: bool) -> str:
    """A clip, or why there is none."""
    if row.status != "done":
        return (
            f'<figure class="{row.status}"><strong>{escape(heading)} {row.status}</strong>'
            f"<figcaption>{escape(row.error or '')}</figcaption></figure>"
        )
    caption = escape(" · ".join([*facts, f"{sum(row.seconds.values()):.1f} s"]))
    play = "autoplay" if playing else 'preload="none"'
    return (
        f'<figure><video src="{quote(row.video)}" poster="{quote(row.thumbnail)}" '
        f'width="{row.parameters.width}" height="{row.parameters.height}" '
        f'aria-label="{escape(row.title)}" controls loop muted {play} playsinline></video>'
        f"<figcaption><strong>{escape(heading)}</strong> {caption}</figcaption></figure>"
    )


def _facts(params: RenderParams, axes: set[str]) -> list[str]:
    """What is to be said of parameters, but for those that the headings say."""
    said = [text.format(params) for names, text in _FACTS.items() if not axes.issuperset(names)]
    fields = RenderParams.model_fields | RenderDefaults.model_fields
    others = [name for name in fields if name not in _TOLD and name not in axes]
    for name in others:
        value = getattr(params, name)
        if value != fields[name].default:
            said.append(_heading(name, value))
    return said


def _heading(axis: str, value: Any) -> str:
    return f"{label(axis)} {written(value)}"


def _in_order(values: set[Any]) -> list[Any]:
    """Sorted; numbers before texts, should an old summary have both."""
    return sorted(values, key=_rank)


def _rank(value: Any) -> Any:
    return (
        [_rank(v) for v in value] if isinstance(value, tuple) else (isinstance(value, str), value)
    )
