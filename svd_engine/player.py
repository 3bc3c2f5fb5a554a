"""Clips as notebooks show them. No torch."""

from base64 import b64encode
from html import escape

# A small clip is easier to see at this width; none is shown wider than its cell.
_STYLE = "display: block; width: min(100%, {width}px); border-radius: 6px"
WIDTHS = (320, 768)  # the least and the most that a clip is shown at


def player(mp4: bytes, width: int, caption: str) -> str:
    """HTML that plays a video over and over, with a caption. width: that of its frames."""
    shown = min(max(width, WIDTHS[0]), WIDTHS[1])
    return (
        '<figure style="margin: 0"><video controls autoplay loop muted playsinline '
        f'style="{_STYLE.format(width=shown)}" '
        f'src="data:video/mp4;base64,{b64encode(mp4).decode()}"></video>'
        f'<figcaption style="font-size: .85em">{escape(caption)}</figcaption></figure>'
    )
