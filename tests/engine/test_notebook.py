"""What a notebook shows, and the notebook in the examples."""

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from svd_engine.engine import Clip
from svd_engine.player import WIDTHS, player
from svd_engine.video import decode_video

EXAMPLES = Path(__file__).parents[2] / "examples"


def clip_of(width: int = 64, height: int = 48) -> Clip:
    return Clip(np.full((7, height, width, 3), 90, np.uint8), torch.zeros(7, 4, 6, 8), 7)


def test_a_clip_is_short_in_a_terminal_and_plays_in_a_notebook() -> None:
    clip = clip_of()
    assert repr(clip) == str(clip) == "Clip(7 frames of 64x48 at 7 fps)"
    shown = clip._repr_html_()
    assert "7 frames of 64x48 at 7 fps</figcaption>" in shown
    assert all(word in shown for word in (" loop ", " autoplay ", " muted ", " controls "))
    found = re.search('src="data:video/mp4;base64,([^"]*)"', shown)
    assert found is not None
    assert decode_video(base64.b64decode(found[1])).shape == (7, 48, 64, 3)


@pytest.mark.parametrize(("width", "shown"), [(128, WIDTHS[0]), (512, 512), (1024, WIDTHS[1])])
def test_a_player_has_a_width_to_look_at_and_escapes_its_caption(width: int, shown: int) -> None:
    html = player(b"mp4", width, "<b>")
    assert f"min(100%, {shown}px)" in html
    assert "&lt;b&gt;" in html


def test_the_notebook_runs_from_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "test")  # no history is kept
    notebook: Any = nbformat.read(  # type: ignore[no-untyped-call]
        EXAMPLES / "notebook.ipynb", as_version=4
    )
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(EXAMPLES)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [
        output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})
    ]
    assert len(shown) == 1
    assert "data:video/mp4" in shown[0]
    assert any("Clip(14 frames of 128x128 at 7 fps)" in str(output) for output in outputs)
