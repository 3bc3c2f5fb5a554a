"""`diagnose --html`: the page says what is wrong and what to write, and shows it."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser

from svd_engine import Engine, RenderParams
from svd_engine.__main__ import main
from svd_engine.conformance import sketches
from svd_engine.conformance.findings import Finding, Verdict
from svd_engine.conformance.port_lines import lines_of
from svd_engine.conformance.report import right_line
from svd_engine.conformance.sketches import Sketches
from svd_engine.conformance.traces import Trace
from svd_engine.deviation_catalogue import CATALOGUE
from tests.support.chromium import chromium
from tests.support.traced import trace

FRAMES = 4
MISTAKES = ("fps_not_reduced", "image_latents_first", "halves_swapped")
HOSTILE = "vae.<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br"}


@dataclass
class Read(HTMLParser):
    """A page as it is read: its text, pictures and addresses. Tags must be closed in order."""

    html: str
    text: str = ""
    pictures: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        assert self.html.startswith("<!doctype html>")
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened += [] if tag in VOID else [tag]
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href"):
                (self.pictures if tag == "img" else self.addresses).append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.opened else ""


@dataclass(frozen=True)
class Bench:
    """Makes pages of traces of the tiny checkpoint."""

    model: Path
    engine: Engine
    picture: Image.Image
    folder: Path

    def page(
        self,
        mistakes: tuple[str, ...],
        changes: Mapping[str, torch.Tensor],
        only: tuple[str, ...] = (),
    ) -> Path:
        asked = {"width": 64, "height": 48, "num_frames": FRAMES, "num_inference_steps": 2}
        params = RenderParams(**asked, deviations=mistakes).resolve(self.engine.defaults)
        tensors = {**trace(self.engine, self.picture, params, only=only), **changes}
        header = {"params": params.model_dump(exclude={"deviations"}), "dtype": "float32"}
        theirs, image = self.folder / "<b>mine.safetensors", self.folder / "picture.png"
        Trace(tensors, header).save(theirs)
        self.picture.save(image)
        page = self.folder / f"{len(mistakes)}{len(changes)}.html"
        arguments = [str(theirs), "--picture", str(image), "--model", str(self.model)]
        status = main(["diagnose", *arguments, "--steps-judged", "all", "--html", str(page)])
        assert status == (1 if mistakes else 2 if changes else 0)
        return page


@pytest.fixture(scope="module")
def bench(tiny: Path, picture: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tiny, Engine.from_pretrained(tiny), picture, tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def wrong(bench: Bench) -> Path:
    """Of a trace with some mistakes, an unexplained tensor and one that nobody knows."""
    return bench.page(
        MISTAKES, {HOSTILE: torch.ones(3), "frames": torch.rand(FRAMES, 3, 48, 64) * 2 - 1}
    )


def test_each_mistake_is_shown_with_its_lines(wrong: Path) -> None:
    read = Read(wrong.read_text())
    assert "3 known mistakes are named, and 2 tensors depart" in read.text
    for mistake in MISTAKES:
        known = CATALOGUE[mistake]
        lines = [text for each in lines_of(mistake) for text in (each.wrong, each.right)]
        for words in (mistake, known.wrong, known.right, right_line(mistake), *lines):
            assert words in read.text
        assert f"#{mistake}" in read.addresses
    others = CATALOGUE.keys() - set(MISTAKES)
    assert not [name for name in others if f"#{name}" in read.addresses]
    assert all(address.startswith("#") for address in read.addresses)


def test_names_are_escaped(wrong: Path) -> None:
    html = wrong.read_text()
    assert "<b>mine" not in html
    assert HOSTILE not in html
    read = Read(html)
    assert "Diagnosis of <b>mine.safetensors" in read.text
    assert f"under unknown names: {HOSTILE}" in read.text


def test_what_departs_is_drawn(wrong: Path) -> None:
    read = Read(wrong.read_text())
    assert all(url.startswith("data:image/png;base64,") for url in read.pictures)
    drawn = re.findall(r"<figcaption><code>([^<]*)</code>", wrong.read_text())
    assert drawn == ["step.000.model_input", "step.000.guided", "frames", "frames.uint8"]
    rows = len(read.pictures) / 3
    assert 3 * len(drawn) <= rows <= 4 * len(drawn)
    assert wrong.stat().st_size < 10e6


def test_nothing_is_drawn_where_nothing_departs(bench: Bench) -> None:
    read = Read(bench.page((), {}, ("time_ids", "sigmas", "latents.init")).read_text())
    assert "nothing wrong in what was recorded" in read.text
    assert read.pictures == read.addresses == []
    assert not any(name in read.text for name in CATALOGUE)


def finding(key: str) -> Finding:
    return Finding(key, Verdict.UNEXPLAINED)


def test_of_a_stage_the_first_that_departs_is_drawn_with_the_frame_that_departs_most() -> None:
    shown, right = Sketches(), torch.zeros(1, 9, 4, 2, 2)
    keys = ["step.001.latents", "step.003.latents"]
    for key in reversed(keys):
        theirs = right.clone()
        theirs[0, 6, 2] = 3.0 if key == keys[0] else math.nan
        shown(finding(key), theirs, right)
    shown(finding("sigmas"), torch.ones(3), torch.zeros(3))
    (sketch,) = shown.drawn([*keys, "sigmas"])
    assert (sketch.finding.key, sketch.largest) == (keys[0], 3.0)
    assert [row.what for row in sketch.rows] == ["frame 0", "frame 4", "frame 6", "frame 8"]


def test_of_many_channels_the_half_that_departs_is_drawn() -> None:
    shown, right = Sketches(), torch.zeros(2, 1, 8, 2, 2)
    theirs = right.clone()
    theirs[0, 0, 5] = 1.0
    shown(finding("step.000.model_input"), theirs, right)
    (sketch,) = shown.drawn(["step.000.model_input"])
    assert sketch.channels == "channels 4 to 7"
    assert [row.what for row in sketch.rows] == ["unconditional half", "conditional half"]


def test_a_page_has_room_for_so_many_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, noise = Sketches(), torch.rand(2, 3, 60, 80)
    keys = ["frames", "image.augmented"]
    for key in keys:
        shown(finding(key), noise, torch.zeros_like(noise))
    size = max(sum(map(len, row.pictures)) for row in next(shown.drawn(keys)).rows)
    monkeypatch.setattr(sketches, "ROOM", int(3.5 * size))
    assert [len(sketch.rows) for sketch in shown.drawn(keys)] == [2, 1]  # in turn
    monkeypatch.setattr(sketches, "ROOM", 0)
    assert [len(sketch.rows) for sketch in shown.drawn(keys)] == [0, 0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window(browser: Browser, wrong: Path, width: int, scheme: str) -> None:
    page = browser.new_page(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    console = list[str]()
    page.on("console", lambda message: console.append(message.text))
    page.goto(wrong.as_uri())
    wide = page.evaluate("document.documentElement.scrollWidth")
    loaded = page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    page.close()
    assert (wide, loaded, console) == (width, True, [])
