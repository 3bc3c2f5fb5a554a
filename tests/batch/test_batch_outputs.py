"""A batch's outputs: when the summary is written, and the contact sheet."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from farm.batch.contact_sheet import contact_sheet
from farm.batch.summary import Content, Row, Summary
from farm.errors import StoreError
from farm.model.request import digest_of
from farm.store.local import LocalStore
from svd_engine.params import RenderDefaults, RenderParams

DEFAULTS = RenderDefaults(width=64, height=48, num_frames=7)
A, B = digest_of(b"a"), digest_of(b"b")


def row(name: str = "cat", seed: int = 0, /, **changes: Any) -> Row:
    """A row; changes that are parameters are what varied."""
    swept = {k: v for k, v in changes.items() if k in RenderParams.model_fields}
    base = {
        "name": name,
        "picture": "pictures/cat.png",
        "seed": seed,
        "variation": {"seed": seed} | swept,
        "status": "done",
        "parameters": RenderParams(seed=seed, **swept).resolve(DEFAULTS),
        "digest": A,
        "seconds": {"denoise": 3.0, "decode": 0.25},
    }
    return Row(**base | {k: v for k, v in changes.items() if k not in swept})


class Clock:
    """A store's folder, and a clock that each write moves on."""

    def __init__(self, folder: Path, write_s: float = 0.0) -> None:
        self.now, self.writes, self.write_s = 0.0, 0, write_s
        self.store = LocalStore(folder)
        self._put = self.store.put
        self.store.put = self.put  # type: ignore[assignment, method-assign]

    def put(self, *arguments: Any) -> str:
        self.writes += 1
        self.now += self.write_s
        return self._put(*arguments)

    def __call__(self) -> float:
        return self.now


def test_a_row_that_varies() -> None:
    varied = row("cat", 3, max_guidance_scale=2.5, motion_bucket_id=40, fit="crop")
    assert varied.title == "cat-seed3-maxguidance2.5-motion40-fitcrop"
    assert (varied.video, varied.thumbnail) == (f"{varied.title}.mp4", f"{varied.title}.jpg")
    again = Row.model_validate_json(varied.model_dump_json())
    assert (again, again.title) == (varied, varied.title)


def test_a_sweep_of_known_mistakes_is_written_and_shown(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    swept = [("norm_eps",), ("sine_first", "norm_eps")]
    rows = [row("cat", 0, deviations=names) for names in swept]
    summary = Summary(store)
    for each in rows:
        summary.add(each)
    summary.flush()
    assert Summary(store).rows == rows
    assert "norm_eps" in contact_sheet(Summary(store).rows)


def test_summaries_from_before_sweeps_still_load(tmp_path: Path) -> None:
    old = row().model_dump(mode="json")
    for new in ("variation", "job", "attempts", "gpu_seconds"):
        del old[new]
    (tmp_path / "summary.json").write_text(json.dumps({"clips": [old]}))
    assert Summary(LocalStore(tmp_path)).rows == [row()]


def test_summary_knows_what_is_done(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    summary = Summary(store)
    summary.add(row())
    summary.add(row("cat", 1, status="failed", error="why"))
    summary.add(row("cat", 2, status="cancelled"))
    summary.flush()
    summary = Summary(store)
    assert [(r.seed, r.status) for r in summary.rows] == [
        (0, "done"),
        (1, "failed"),
        (2, "cancelled"),
    ]
    assert not summary.is_done("cat-seed0", A)  # its files are not there
    store.put("cat-seed0.mp4", b"clip")
    store.put("cat-seed0.jpg", b"picture")
    assert summary.is_done("cat-seed0", A)
    assert not summary.is_done("cat-seed0", B)
    assert not summary.is_done("cat-seed1", A)
    wanted = {"cat-seed0": A, "cat-seed1": A, "dog-seed0": A}
    assert summary.done(wanted) == {"cat-seed0"}


@pytest.mark.parametrize(
    ("change", "quick", "thorough"),
    [
        ({}, None, None),
        (
            {"cat-seed0.mp4": b""},
            "cat-seed0.mp4 has 0 bytes of 4",
            "cat-seed0.mp4 has 0 bytes of 4",
        ),
        ({"cat-seed0.mp4": b"c"}, "cat-seed0.mp4 has 1 byte of 4", "cat-seed0.mp4 has 1 byte of 4"),
        (
            {"cat-seed0.jpg": b"pic"},
            "cat-seed0.jpg has 3 bytes of 7",
            "cat-seed0.jpg has 3 bytes of 7",
        ),
        ({"cat-seed0.mp4": None}, "cat-seed0.mp4 is gone", "cat-seed0.mp4 is gone"),
        ({"cat-seed0.mp4": b"clap"}, None, "cat-seed0.mp4 is not what was written"),
    ],
)
def test_damaged_files_are_told(
    change: dict[str, bytes | None], quick: str | None, thorough: str | None, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    files = {"cat-seed0.mp4": b"clip", "cat-seed0.jpg": b"picture"}
    summary = Summary(store)
    summary.add(row(files={key: Content.of(data) for key, data in files.items()}))
    summary.flush()
    for key, data in {**files, **change}.items():
        if data is None:
            store.delete(key)
        else:
            store.put(key, data)
    summary = Summary(store)
    assert summary.look({"cat-seed0": A, "dog-seed0": A}) == {"cat-seed0": quick, "dog-seed0": ""}
    assert summary.look({"cat-seed0": A}, verify=True) == {"cat-seed0": thorough}


def test_files_of_older_rows_count_unless_they_are_empty(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    summary = Summary(store)
    summary.add(row())
    store.put("cat-seed0.mp4", b"clip")
    store.put("cat-seed0.jpg", b"picture")
    assert summary.why_not("cat-seed0", A) is None
    assert summary.why_not("cat-seed0", A, verify=True) == (
        "cat-seed0.mp4: its digest was not recorded"
    )
    store.put("cat-seed0.jpg", b"")
    assert summary.why_not("cat-seed0", A) == "cat-seed0.jpg has 0 bytes"


def read(store: LocalStore, key: str) -> bytes:
    stored = store.get(key)
    assert stored is not None
    return stored.data


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 99999])
def test_a_damaged_summary_is_put_aside_and_made_anew(data: bytes, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("summary.json", data)
    summary = Summary(store)
    assert "summary.json: not JSON" in summary.damage
    assert read(store, "summary.json") == data  # until there is something to write
    summary.add(row())
    summary.flush()
    assert read(store, "summary.damaged.json") == data
    again = Summary(store)
    assert (again.rows, again.damage) == ([row()], "")


def test_of_a_damaged_summary_good_rows_are_kept(tmp_path: Path) -> None:
    rows = [row().model_dump(mode="json"), {"name": "dog"}]
    (tmp_path / "summary.json").write_text(json.dumps({"clips": rows}))
    summary = Summary(LocalStore(tmp_path))
    assert (summary.rows, summary.damage.partition(": ")[2]) == ([row()], "1 row cannot be read")


def test_summary_is_written_seldom(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    summary = Summary(clock.store, clock)
    for seed in range(1000):
        clock.now += 0.01
        summary.add(row("cat", seed))
    assert clock.writes == 10  # once a second, with the first
    summary.flush()
    summary.flush()
    assert clock.writes == 11
    assert len(Summary(clock.store).rows) == 1000


def test_a_summary_that_takes_long_to_write_is_written_less(tmp_path: Path) -> None:
    clock = Clock(tmp_path, write_s=2.0)
    summary = Summary(clock.store, clock)
    while clock.now < 200:
        clock.now += 0.1
        summary.add(row())
    assert clock.writes == 10


def test_summary_forgets_rows_before_their_files_change(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    summary = Summary(clock.store, clock)
    titles = [f"cat-seed{seed}" for seed in range(4)]
    for seed in range(3):
        summary.add(row("cat", seed))
    summary.add(row("cat", 3, status="failed"))
    summary.flush()
    before = clock.writes
    summary.remove(*titles[:2], "dog-seed0")
    assert clock.writes == before + 1
    assert [r.title for r in Summary(clock.store).rows] == titles[2:]
    summary.remove(titles[3])  # it names no files
    assert clock.writes == before + 1


def test_summary_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"clips": 3}')
    with pytest.raises(StoreError, match="not a batch's summary"):
        Summary(LocalStore(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


class Page(HTMLParser):
    """A page's tables, as texts of rows of cells, and its tags; every tag must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag in ("tr", "caption"):
            self.tables[-1].append([])
        if tag in ("th", "td", "caption"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"th", "td", "caption"} & set(self._open):
            self.tables[-1][-1][-1] += data.strip()


def test_contact_sheet_escapes_and_quotes() -> None:
    bad = '<b>"x"&#'
    page = contact_sheet(
        [
            row(bad, picture="<b>.png"),
            row("cat", 1, status="failed", error="<script>no</script>"),
            row(bad, 1, variation={"seed": 1, "<b>": "<b>"}),
            row(bad, 2, variation={"seed": 2, "<b>": "<i>"}),
        ]
    )
    Page(page)
    assert "<b>" not in page
    assert "<i>" not in page
    assert "<script>no" not in page
    assert "amp;lt;" not in page  # escaped once
    assert 'src="%3Cb%3E%22x%22%26%23-seed0.mp4"' in page
    assert "3 clips, 1 failed" in page


def test_one_axis_is_a_row_of_clips() -> None:
    page = contact_sheet([row("cat", 10), row("cat", 2), row("cat", 1, status="cancelled")])
    assert not Page(page).tables
    assert re.findall("seed [0-9]+<", page) == ["seed 1<", "seed 2<", "seed 10<"]
    assert '<span class="status">cancelled</span>' in page
    assert page.count("64 x 48 · 7 frames · 7 fps · 25 steps · motion 127</dd>") == 1
    assert "3.2 s" in page
    assert "2 clips, 1 cancelled" in page


def test_two_axes_are_a_table() -> None:
    rows = [row("cat", seed, motion_bucket_id=m) for m in (200, 40) for seed in (1, 0)]
    rows[0] = row("cat", 1, motion_bucket_id=200, status="failed", error="out of memory")
    page = Page(contact_sheet([*rows[:3], row("dog")]))
    assert page.tables == [
        [
            ["seed by motion"],
            ["", "seed 0", "seed 1"],
            ["motion 40", "not rendered", "3.2 s"],
            ["motion 200", "3.2 s", "failedout of memory"],
        ]
    ]
    scopes = [attrs["scope"] for tag, attrs in page.tags if tag == "th"]
    assert scopes == ["col", "col", "row", "row"]


def test_more_axes_are_a_table_for_each_value_of_the_others() -> None:
    rows = [
        row("cat", seed, fps=fps, fit=fit)
        for fps in (12, 7)
        for fit in ("pad", "crop")
        for seed in (0, 1)
    ]
    page = contact_sheet(rows)
    assert [table[:2] for table in Page(page).tables] == [
        [["fit crop"], ["", "seed 0", "seed 1"]],
        [["fit pad"], ["", "seed 0", "seed 1"]],
    ]
    assert [line[0] for line in Page(page).tables[0][2:]] == ["fps 7", "fps 12"]
    # One seed: the first two that vary make the table.
    page = contact_sheet([r for r in rows if r.seed == 0])
    assert "<p>seed 0</p>" in page
    assert Page(page).tables[0][:2] == [["fps by fit"], ["", "fps 7", "fps 12"]]


def test_clips_of_several_batches_and_settings_stand_apart() -> None:
    page = contact_sheet(
        [
            row("cat", 0, motion_bucket_id=40),
            row("cat", 1, parameters=RenderParams(num_inference_steps=5).resolve(DEFAULTS)),
            row("cat", 0, parameters=RenderParams(max_guidance_scale=2).resolve(DEFAULTS)),
        ]
    )
    captions = re.findall("<strong>(.*?)</strong> (.*?)</figcaption>", page)
    assert captions == [
        ("seed 0", "25 steps · max guidance 2 · 3.2 s"),
        ("seed 1", "5 steps · 3.2 s"),
        ("seed 0", "3.2 s"),
    ]
    assert "<p>motion 40 · 25 steps" in page
    assert "64 x 48 · 7 frames · 7 fps</dd>" in page


def test_what_holds_for_all_is_said_once_at_the_top() -> None:
    rows = [row(name, seed, fps=12, model="nano") for name in ("cat", "dog") for seed in (0, 1)]
    rows = [each.model_copy(update={"variation": {"seed": each.seed}}) for each in rows]
    page = contact_sheet(rows, "farm-batch 'my pictures' --out <out>", 0.0)
    assert "2 pictures, 4 clips" in page
    for words in ("64 x 48", "12 fps", ">nano<", "13 s in all", "1970-01-01 00:00 UTC"):
        assert page.count(words) == 1, words
    command = re.search("<pre>(.*)</pre>", page)
    assert command is not None
    assert unescape(re.sub("<[^>]*>", "", command[1])) == "farm-batch 'my pictures' --out <out>"
    assert "0 clips" in contact_sheet([])
