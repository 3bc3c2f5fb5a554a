"""`index.html`: the clips of a batch side by side, playing. One file, no script."""

from html import escape
from urllib.parse import quote

from farm.summary import Row

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }}
  body {{ margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
  h1 {{ font-size: 1.3rem; }}
  h2 {{ font-size: 1rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }}
  main > section > div {{ display: grid; gap: 1rem;
    grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }}
  figure {{ margin: 0; }}
  video {{ width: 100%; border-radius: 6px; background: #8882; }}
  figcaption, .muted {{ font-size: .85rem; opacity: .8; overflow-wrap: anywhere; }}
  .failed {{ border-left: 4px solid #d33; padding-left: .75rem; }}
</style>
<h1>{title}</h1>
<main>
{sections}
</main>
</html>
"""


def contact_sheet(rows: list[Row]) -> str:
    """The page; its clips are beside it in the store."""
    done = sum(row.status == "done" for row in rows)
    names = dict.fromkeys(row.name for row in rows)
    sections = [_section(name, [row for row in rows if row.name == name]) for name in names]
    failed = f", {len(rows) - done} failed" if done < len(rows) else ""
    return _PAGE.format(title=f"{done} clips{failed}", sections="\n".join(sections))


def _section(name: str, rows: list[Row]) -> str:
    figures = "\n".join(_figure(row) for row in rows)
    return f"<section>\n<h2>{escape(name)}</h2>\n<div>\n{figures}\n</div>\n</section>"


def _figure(row: Row) -> str:
    if row.status == "failed":
        return (
            f'<figure class="failed"><strong>seed {row.seed} failed</strong>'
            f"<figcaption>{escape(row.error or '')}</figcaption></figure>"
        )
    p = row.parameters
    caption = (
        f"seed {row.seed} · {p.width} x {p.height} · {p.num_frames} frames at {p.fps} fps · "
        f"{p.steps} steps · motion {p.motion_bucket_id} · {sum(row.seconds.values()):.1f} s"
    )
    return (
        f'<figure><video src="{quote(row.video)}" poster="{quote(row.thumbnail)}" '
        f'aria-label="{escape(row.title)}" controls loop muted autoplay playsinline></video>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
