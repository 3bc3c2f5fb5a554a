"""Batches of whole trees of folders, of what arrives, and their archives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.batch import __main__ as batch
from farm.batch import arrivals
from farm.batch.arrivals import Arrivals
from farm.batch.inputs import find_pictures
from farm.batch.listing import Search
from farm.batch.summary import Summary
from farm.client.farm import Farm
from farm.store import is_key
from farm.store.local import LocalStore
from tests.batch.test_batch_inputs import bucket  # noqa: F401 - a fixture
from tests.conftest import draw_picture
from tests.support.inline_batch import inline_batch, run
from tests.support.inline_farm import inline  # noqa: F401 - a fixture
from tests.support.programs import exit_status

DEEP = Search(recursive=True)


@pytest.fixture
def farm(tmp_path: Path, inline: Any) -> Iterator[Farm]:  # noqa: F811
    with inline_batch(tmp_path / "store") as farm:
        yield farm


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_picture(40, 30, seed).save(path)
    return path


def names(*inputs: object, search: Search = DEEP) -> list[str]:
    return sorted(each.name for each in find_pictures(map(str, inputs), search).pictures)


def files(folder: Path) -> list[str]:
    """The files below a folder, without a store's own."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if ".farm-" not in name)


# --recursive


def test_a_tree_is_rendered_into_a_tree(farm: Farm, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "photos/clips"
    for seed, name in enumerate(("cat.png", "boats/cat.png", "boats/2024/cat.png", ".old/cat.png")):
        draw(folder / name, seed)
    for _again in range(2):  # the second time the outputs are among the inputs, and nothing is left
        assert run(folder, "--out", out, "--recursive", "--seeds", "1") == 0
        titles = ("boats/2024/cat-seed1", "boats/cat-seed1", "cat-seed1")
        clips = [f"{title}.{suffix}" for title in titles for suffix in ("jpg", "mp4")]
        shown = [f"{title.removesuffix('-seed1')}.source.jpg" for title in titles]
        assert files(out) == sorted([*clips, *shown, "index.html", "summary.json"])
    page = (out / "index.html").read_text()
    assert 'src="boats/2024/cat-seed1.mp4"' in page


def test_folders_that_are_hidden_linked_or_get_the_outputs_are_not_entered(tmp_path: Path) -> None:
    for name in ("a.png", ".git/b.png", "@eaDir/c.png", "out/d.png", "sub/.x/e.png", "sub/f.png"):
        draw(tmp_path / name)
    (tmp_path / "circle").symlink_to(tmp_path)
    search = Search(True, frozenset({str(tmp_path / "out")}))
    assert names(tmp_path, search=search) == ["a", "sub/f"]
    assert names(tmp_path, search=Search()) == ["a"]


def test_a_bucket_is_searched_the_same_way(bucket: LocalStore) -> None:  # noqa: F811
    for key in ("in/a.png", "in/x/a.png", "in/.h/b.png", "in/out/x/c.png", "in/x/y/a.png", "d.png"):
        bucket.put(key, key.encode())
    search = Search(True, frozenset({bucket.where("in/out")}))
    assert names("s3://bucket/in/", search=search) == ["a", "x/a", "x/y/a"]
    assert names("s3://bucket/in", search=search) == ["a", "x/a", "x/y/a"]
    assert names("s3://bucket/in/x", search=search) == ["a", "y/a"]


PARTS = st.sampled_from(["a", "b", "a-seed0.mp4", "index.html", "e\N{COMBINING ACUTE ACCENT}", "é"])


@given(st.sets(st.lists(PARTS, max_size=3).map(tuple), min_size=1, max_size=6))
def test_names_of_a_tree_never_collide(
    tmp_path_factory: pytest.TempPathFactory, folders: set[tuple[str, ...]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for number, folder in enumerate(sorted(folders)):
        (root.joinpath(*folder)).mkdir(parents=True, exist_ok=True)
        (root.joinpath(*folder) / "a.png").write_bytes(bytes([number]))
    found = names(root)
    assert len(set(found)) == len(folders)
    keys = {f"{name}-seed0.mp4" for name in found} | {"index.html"}
    assert all(map(is_key, keys))
    assert not any(key.startswith(f"{other}/") for key in keys for other in keys)


# --watch


def test_what_is_still_written_is_not_taken_and_what_changes_is_taken_again(tmp_path: Path) -> None:
    watch = Arrivals([str(tmp_path)], DEEP)

    def look() -> list[str]:
        inputs = watch.look()
        return [each.name for each in inputs.pictures] if inputs else []

    assert look() == []
    picture = draw(tmp_path / "sub/a.png")
    whole = picture.read_bytes()
    for size in (0, 10, 20, len(whole)):
        picture.write_bytes(whole[:size])
        assert look() == []
    assert look() == ["sub/a"]
    draw(tmp_path / "b.png", 1)
    (tmp_path / "empty.png").touch()
    assert [look(), look(), look()] == [[], ["b"], []]
    picture.write_bytes(whole + b"more")
    assert [look(), look(), look()] == [[], ["sub/a"], []]
    picture.unlink()
    assert look() == []


def test_a_bucket_is_watched_too(bucket: LocalStore) -> None:  # noqa: F811
    bucket.put("in/z.png", b"z")
    watch = Arrivals(["s3://bucket/in"], DEEP)
    assert watch.look() is None
    bucket.put("in/x/y.png", b"y")
    first, second = watch.look(), watch.look()
    assert first is not None
    assert [each.name for each in first.pictures] == ["z"]
    assert second is not None
    assert [each.name for each in second.pictures] == ["x/y"]


def test_a_manifest_is_read_when_it_arrives(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    rows = tmp_path / "rows.csv"
    rows.write_text("picture,name\na.png,first\n")
    watch = Arrivals([str(rows)], DEEP)
    seen = [watch.look() for _ in range(3)]
    assert [None if each is None else each.pictures[0].name for each in seen] == [
        None,
        "first",
        None,
    ]


class Moments:
    """What happens while a watch sleeps; then Ctrl-C."""

    def __init__(self, *events: Any) -> None:
        self.events = iter(events)

    def __call__(self, _seconds: float) -> None:
        event = next(self.events, None)
        if event is None:
            raise KeyboardInterrupt
        event()


def test_a_batch_that_watches(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inbox, out, archive = tmp_path / "inbox", tmp_path / "out", tmp_path / "clips.zip"
    inbox.mkdir()

    def broken() -> None:
        (inbox / "bad.png").write_bytes(b"not a picture")

    moments = Moments(
        lambda: draw(inbox / "a.png"),
        *[lambda: None] * 3,
        lambda: draw(inbox / "sub/b.png", 1),
        *[lambda: None] * 2,
        broken,
        *[lambda: None] * 2,
        lambda: draw(inbox / "bad.png", 2),
        *[lambda: None] * 2,
    )
    monkeypatch.setattr("farm.batch.__main__.time.sleep", moments)
    assert run(inbox, "--out", out, "--recursive", "--watch", "--zip", archive) == 0
    done = {row.title for row in Summary(LocalStore(out)).rows if row.status == "done"}
    assert done == {"a-seed0", "sub/b-seed0", "bad-seed0"}
    captured = capsys.readouterr()
    assert "3 of 3 clips are done" in captured.out
    assert "3 clips" in captured.out.splitlines()[-1]
    assert "bad-seed0" in captured.err  # it failed at first
    with ZipFile(archive) as inside:
        expected = {f"clips/{name}" for name in files(out)}
        assert set(inside.namelist()) == expected


def test_what_is_wrong_with_watched_inputs_is_said_once_and_watched_on(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("picture,speed\na.png,3\n")
    draw(tmp_path / "a.png")

    def mend() -> None:
        rows.write_text("picture,seed\na.png,3\n")

    monkeypatch.setattr(
        "farm.batch.__main__.time.sleep", Moments(*[lambda: None] * 4, mend, *[lambda: None] * 3)
    )
    assert run(rows, "--out", tmp_path / "out", "--watch") == 0
    captured = capsys.readouterr()
    assert captured.err.count("Unknown parameter 'speed'") == 1
    assert "still watching" in captured.err
    assert "1 of 1 clip is done" in captured.out


def test_looks_are_apart() -> None:
    assert arrivals.LOOK_EVERY_S > 0.5  # a file that grows more slowly is taken too early


# --zip, and what contradicts


def test_an_archive_has_all_files_and_is_written_again(farm: Farm, tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png")
    archive = tmp_path / "all.zip"
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--zip", archive) == 0
    draw(tmp_path / "in/b.png", 1)
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--zip", archive) == 0
    with ZipFile(archive) as inside:
        assert inside.testzip() is None
        for name in files(tmp_path / "out"):
            assert inside.read(f"all/{name}") == (tmp_path / "out" / name).read_bytes()
        assert len(inside.namelist()) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--watch", "--dry-run"], "--watch renders here: give no --dry-run"),
        (["--watch", "--detach"], "--watch renders here: give no --detach"),
        (["--zip", "x.zip", "--detach"], "--zip renders here: give no --detach"),
        (["--watch", "--force"], "--watch renders what arrives once: give no --force"),
        (["--zip", "x.tar"], "--zip: give a file whose name ends with .zip, got 'x.tar'"),
        (["--zip", "no/such/x.zip"], "--zip: there is no folder "),
        (["gone", "--watch"], "--watch: there is nothing at 'gone'"),
        ([".", "--watch", "--out", "."], "--out: give another folder than the pictures'"),
        ([".", "--recursive", "--out", "."], "gets the outputs: give another folder as --out"),
    ],
)
def test_contradictions_are_wrong_usage(
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARM_STORE", str(tmp_path / "store"))
    draw(tmp_path / "a.png")
    given = ["a.png", *options[:1]] if not options[0].startswith("-") else ["a.png"]
    options = options[len(given) - 1 :]
    assert exit_status(batch.main, [*given, "--out", "out", *options]) == 2
    assert words in capsys.readouterr().err
    assert files(tmp_path) == ["a.png"]
